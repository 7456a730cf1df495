"""Which replicas are added and which retire, from where they are and what is free. Pure functions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from latentmas_ray.placement import ReplicaId

Agents = tuple[str, ...]  # those that share an actor; mostly one


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One replica of the run."""

    replica_id: ReplicaId
    nodes: tuple[str, ...]
    is_ready: bool = True  # else it is starting
    is_retiring: bool = False


@dataclass(frozen=True, kw_only=True)
class Room:
    """A live node: how many more replicas fit there, and whether it will be removed soon."""

    places: int
    is_draining: bool = False
    can_squeeze: bool = False  # a replica may be put there that asks for no resources


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that decides. `asked` are the replicas that the run asks for, `most` how many it may have (None: any
    number), by those that share an actor; `load` the turns that are ready, per replica."""

    standing: Sequence[Standing]
    rooms: Mapping[str, Room]
    asked: Mapping[Agents, int]
    most: Mapping[Agents, int | None]
    writers: frozenset[Agents] = frozenset()  # those that write text
    load: Mapping[Agents, float] = field(default_factory=dict)
    planned: Mapping[str, int] = field(default_factory=dict)  # replicas by node, in a plan for all nodes

    def staying(self, agents: Agents) -> list[Standing]:
        """Return the replicas that neither retire nor are on a node that leaves."""
        return [one for one in self.standing if one.replica_id.agents == agents and self.stays(one)]

    def stays(self, one: Standing) -> bool:
        return not one.is_retiring and not any(self.is_leaving(node) for node in one.nodes)

    def is_leaving(self, node: str) -> bool:
        room = self.rooms.get(node)
        return room is not None and room.is_draining


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Start one more replica on a node; with `squeezed` it asks for no cores, as none are free. Once it is loaded,
    `instead_of` retires."""

    agents: Agents
    node: str
    why: str
    squeezed: bool = False
    instead_of: ReplicaId | None = None


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """Send no more turns to a replica, and end it after those that it has."""

    replica_id: ReplicaId
    why: str


LEAVING = "its node will be removed"
REPLACES = "another node will be removed"
RETURNED = "there is room again"
JOINED = "there is room for more"
SPREAD = "there are nodes with room"
BUSY = 0.95  # of the time: such an agent is the bottleneck
IDLE = 0.7  # of the time, with one replica fewer: such an agent can give one
Decision = Addition | Retirement


def decide(situation: Situation) -> list[Decision]:
    """Return what to do now. Called again later, with what was done in `situation`, it returns what is left to do.

    Replicas on nodes that leave retire as soon as another replica of each of their agents is ready elsewhere. Replicas
    that are asked for and missing come first, then those that the run may have more; each goes to the node with the
    most room. Where all are there, some move to nodes that a new plan would use and that have none.
    """
    places = Counter({name: room.places for name, room in situation.rooms.items() if not room.is_draining})
    decisions: list[Decision] = []
    for agents, count in situation.asked.items():
        staying = len(situation.staying(agents))
        for _ in range(count - staying):
            why = REPLACES if staying < _num_active(situation, agents) else RETURNED
            if (node := _take(places)) is not None:
                decisions.append(Addition(agents=agents, node=node, why=why))
                staying += 1
            elif not staying and (node := _squeezable(situation)) is not None:
                decisions.append(Addition(agents=agents, node=node, why=why, squeezed=True))
                staying += 1
    if not decisions:
        decisions += _growth(situation, places)
    if not decisions and all(one.is_ready and not one.is_retiring for one in situation.standing):
        decisions += _moves(situation, places)
    return [*decisions, *_retirements(situation)]


@dataclass(frozen=True)
class Shift:
    """One replica of `giver` ends, and one of `taker` starts in its place."""

    giver: Agents
    taker: Agents
    replica_id: ReplicaId  # that ends
    why: str


def find_shift(situation: Situation, busy: Mapping[Agents, float]) -> Shift | None:
    """Return which replica should work for another agent, None if none should: one agent's replicas are busy all the
    time, and another agent's would have time left with one fewer. `busy` is the part of the time in which a replica has
    a turn.
    """
    if any(one.is_retiring or not one.is_ready or not situation.stays(one) for one in situation.standing):
        return None
    taker = max(busy, key=lambda agents: (busy[agents], situation.load.get(agents, 0.0)), default=None)
    if taker is None or busy[taker] < BUSY or situation.load.get(taker, 0.0) <= 1.0:
        return None
    left = {}  # how busy the replicas of an agent would be with one fewer
    for agents, part in busy.items():
        count = len(situation.staying(agents))
        if agents != taker and count > 1 and (after := part * count / (count - 1)) <= IDLE:
            left[agents] = after
    if not left:
        return None
    giver = min(left, key=lambda agents: left[agents])
    one = situation.staying(giver)[-1]
    why = f"the replicas of {'+'.join(taker)} are busy for {busy[taker]:.0%} of the time, its own for {busy[giver]:.0%}"
    return Shift(giver, taker, one.replica_id, why)


def _num_active(situation: Situation, agents: Agents) -> int:
    return sum(one.replica_id.agents == agents and not one.is_retiring for one in situation.standing)


def _retirements(situation: Situation) -> list[Retirement]:
    return [
        Retirement(replica_id=one.replica_id, why=LEAVING)
        for one in situation.standing
        if not one.is_retiring
        and any(situation.is_leaving(node) for node in one.nodes)
        and any(other.is_ready for other in situation.staying(one.replica_id.agents))
    ]


def _growth(situation: Situation, places: "Counter[str]") -> list[Addition]:
    """Fill the places, each with the agent whose replicas have the most work; of those alike, one that writes text, and
    has the fewest replicas."""
    counts = {agents: len(situation.staying(agents)) for agents in situation.asked}
    work = {agents: situation.load.get(agents, 0.0) * count for agents, count in counts.items()}
    found: list[Addition] = []
    while True:
        open_to = [agents for agents in counts if _may_grow(counts[agents], situation.most.get(agents, 0))]
        if not open_to or (node := _take(places)) is None:
            return found
        if not any(work.values()):  # not measured yet
            open_to = [agents for agents in open_to if agents in situation.writers] or open_to
        agents = max(
            open_to,
            key=lambda one: (work[one] / max(1, counts[one]), one in situation.writers, -counts[one]),
        )
        counts[agents] += 1
        found.append(Addition(agents=agents, node=node, why=JOINED))


def _may_grow(count: int, most: int | None) -> bool:
    return most is None or count < most


def _moves(situation: Situation, places: "Counter[str]") -> list[Addition]:
    """Move replicas to nodes without any, as many as a plan for all nodes has there, from where it has fewer."""
    on_node = Counter(one.nodes[0] for one in situation.standing)
    found: list[Addition] = []
    for node, count in sorted(situation.planned.items()):
        if on_node[node] or node not in situation.rooms or situation.rooms[node].is_draining:
            continue
        for _ in range(min(count, places[node])):
            crowded = [
                one
                for one in situation.standing
                if on_node[one.nodes[0]] > situation.planned.get(one.nodes[0], 0)
                and one.replica_id not in {move.instead_of for move in found}
            ]
            if not crowded:
                return found
            one = max(
                crowded,
                key=lambda one: (
                    situation.load.get(one.replica_id.agents, 0.0),
                    one.replica_id.agents in situation.writers,
                ),
            )
            on_node[one.nodes[0]] -= 1
            places[node] -= 1
            found.append(Addition(agents=one.replica_id.agents, node=node, why=SPREAD, instead_of=one.replica_id))
    return found


def _take(places: "Counter[str]") -> str | None:
    """Take a place on the node with the most; return the node."""
    node = max(sorted(places), key=lambda one: places[one], default=None)
    if node is None or places[node] <= 0:
        return None
    places[node] -= 1
    return node


def _squeezable(situation: Situation) -> str | None:
    """Return the node with the fewest replicas on which one fits that asks for nothing."""
    on_node = Counter(node for one in situation.standing for node in one.nodes)
    able = [name for name, room in situation.rooms.items() if room.can_squeeze and not room.is_draining]
    return min(sorted(able), key=lambda name: on_node[name], default=None)
