"""Predicted questions per second of a plan, the use of its devices, and what bounds it."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from latentmas_ray.placement.assignment import Slot
from latentmas_ray.placement.link_speeds import LinkSpeeds
from latentmas_ray.placement.plan import Plan
from latentmas_ray.placement.prediction.turn_costs import TurnCost

_SLACK = 0.2  # as simulations show
Hosts = Mapping[str, frozenset[Hashable]]  # the devices on which an agent has a replica


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a plan is expected to do when all its replicas have enough questions."""

    questions_per_second: float
    bound_by: str
    devices_used: Mapping[str, float]  # by agent: how many devices its turns keep busy
    num_devices: int  # of the cluster: GPUs, or nodes without GPUs

    @property
    def use(self) -> float:
        """The part of all devices' time in which they work."""
        return sum(self.devices_used.values()) / self.num_devices


def predict(plan: Plan, costs: Mapping[str, TurnCost], speeds: LinkSpeeds) -> Prediction:
    """Return the prediction for a plan whose request has a topology; without a model, hand-overs take no time.

    `costs`: of the turns, with the plan's tp. A turn also waits for the segments that it reads, which is counted in
    full: how much of it overlaps with thinking is not predicted. Its time is the mean over all pairs of replicas.
    """
    request = plan.request
    absorbing = dict.fromkeys(request.agents, 0.0)
    transfers = plan.hand_overs(speeds) if request.model is not None else ()
    for transfer in transfers:
        absorbing[transfer.reader] += transfer.mean_seconds / request.workload.batch_size
    seconds = {name: (costs[name].seconds + absorbing[name]) * request.tp for name in request.agents}
    hosts = _hosts(plan)
    rate, bottleneck = most_per_second(seconds, hosts, dict.fromkeys(frozenset().union(*hosts.values()), 1.0))
    network = _network_rate(plan, speeds) if request.model is not None else float("inf")
    return Prediction(
        questions_per_second=min(rate, network),
        bound_by="network between nodes" if network < rate else _bound(bottleneck, hosts, costs, absorbing, plan),
        devices_used={name: min(rate, network) * seconds[name] for name in request.agents},
        num_devices=num_devices(plan),
    )


def most_per_second(
    seconds: Mapping[str, float], hosts: Hosts, sizes: Mapping[Hashable, float]
) -> tuple[float, tuple[str, ...]]:
    """Return the most questions per second, and the agents that set it.

    `seconds`: of device time that each agent needs for a question; `sizes`: how many devices are meant by one host.
    Actors with a turn share the time of their device equally, and a turn goes to the actor of its agent with the fewest
    turns that are not over. So an agent's actors have equal shares of the questions, except for one agent at most:
    where all others keep up, the turns of the slowest wait in queues, and its actors take what time the others leave.
    At least an equal part of a device is theirs, which the others must do without. The nearer the others come to their
    part, the more their turns wait, too, and the shares become equal again. A simulation of such actors reaches the
    better of both cases, and what lies between them where the others have less than `_SLACK` of their part to spare.
    """
    replicas = {agent: sum(sizes[host] for host in hosts[agent]) for agent in seconds}
    shares = {agent: seconds[agent] / replicas[agent] for agent in seconds}
    on: dict[Hashable, list[str]] = {host: [] for host in sizes}
    for agent in seconds:
        for host in hosts[agent]:
            on[host].append(agent)
    equal = _least([(1.0, tuple(agents), sum(shares[agent] for agent in agents)) for agents in on.values()])
    return max([equal, *(_with_queues(slowest, hosts, sizes, shares, on, equal[0]) for slowest in seconds)])


def _with_queues(
    slowest: str,
    hosts: Hosts,
    sizes: Mapping[Hashable, float],
    shares: Mapping[str, float],
    on: Mapping[Hashable, list[str]],
    equal: float,
) -> tuple[float, tuple[str, ...]]:
    """Return the same where the turns of one agent wait in queues; `equal`: the rate with equal shares."""
    bounds = []
    left_out = 0.0
    for host, agents in on.items():
        others = tuple(agent for agent in agents if agent != slowest)
        needed = sum(shares[agent] for agent in others)
        bounds.append((len(others) / len(agents) if agents else 1.0, others, needed))
        left_out += sizes[host] * needed if slowest in agents else 0.0
    room = sum(sizes[host] for host in hosts[slowest])
    neighbours = {agent for host in hosts[slowest] for agent in on[host]}
    bounds.append((room, tuple(agent for agent in shares if agent in neighbours), shares[slowest] * room + left_out))
    rate, slow = _least(bounds)
    used = [
        rate * needed / part
        for (part, _, needed), others in zip(bounds, on.values(), strict=False)
        if slowest in others and needed
    ]
    spare = 1.0 - max(used, default=0.0)
    return equal + (rate - equal) * min(1.0, max(0.0, spare) / _SLACK), slow


def _least(bounds: Iterable[tuple[float, tuple[str, ...], float]]) -> tuple[float, tuple[str, ...]]:
    """Return the least of room / needed, and its agents."""
    return min(((room / needed, agents) for room, agents, needed in bounds if needed), default=(float("inf"), ()))


def num_devices(plan: Plan) -> int:
    """Return the number of GPUs of the cluster, or of its nodes if the actors use none."""
    gpus = sum(node.whole_gpus for node in plan.request.nodes)
    return gpus if plan.share.num_gpus else max(1, sum(node.num_cpus >= 1 for node in plan.request.nodes))


def _hosts(plan: Plan) -> dict[str, frozenset[Hashable]]:
    found: dict[str, set[Slot]] = {name: set() for name in plan.request.agents}
    for replica_id, slots in plan.slots.items():
        for agent in replica_id.agents:
            found[agent].update(slots)
    return {name: frozenset(slots) for name, slots in found.items()}


def _network_rate(plan: Plan, speeds: LinkSpeeds) -> float:
    """Return the questions per second that the busiest port of a node carries."""
    busiest = max(plan.port_bytes().values(), default=0.0)
    return plan.request.workload.batch_size * speeds.network / busiest if busiest else float("inf")


def _bound(
    agents: tuple[str, ...],
    hosts: Hosts,
    costs: Mapping[str, TurnCost],
    absorbing: Mapping[str, float],
    plan: Plan,
) -> str:
    """Say which agents bound the plan, on how many devices, by which phase, and what limits that."""
    slowest = max(agents, key=lambda name: costs[name].seconds + absorbing[name])
    phase, cost = costs[slowest].slowest
    what = "hand-overs to it" if absorbing[slowest] > cost.seconds else f"{phase}, {cost.limit}"
    count = len(frozenset().union(*(hosts[name] for name in agents)))
    device = ("GPU" if plan.share.num_gpus else "node") + ("" if count == 1 else "s")
    return f"{slowest} ({what}) on {count} {device}"
