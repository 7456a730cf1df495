"""Predicted questions per second of a plan, the use of its devices, and what bounds it."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from latentmas_ray.placement.assignment import Slot
from latentmas_ray.placement.link_speeds import LinkSpeeds, PlannedTransfer
from latentmas_ray.placement.plan import Plan
from latentmas_ray.placement.turn_costs import TurnCost

_MOST_KINDS = 10  # of agents that share devices, of which all subsets are looked at
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
    """Return the prediction for a plan whose request has a topology and a model.

    `costs`: of the turns, with the plan's tp. A turn also waits for the segments that it reads, which is counted in
    full: how much of it overlaps with thinking is not predicted.
    """
    request = plan.request
    absorbing = dict.fromkeys(request.agents, 0.0)
    transfers = plan.hand_overs(speeds)
    for transfer in transfers:
        absorbing[transfer.reader] += transfer.seconds / request.workload.batch_size
    seconds = {name: (costs[name].seconds + absorbing[name]) * request.tp for name in request.agents}
    hosts = _hosts(plan)
    rate, bottleneck = most_per_second(seconds, hosts, dict.fromkeys(frozenset().union(*hosts.values()), 1.0))
    network = _network_rate(transfers, plan, speeds)
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
    Each question needs all agents, a replica serves as many questions as it can, and the replicas on a device share its
    time. Then the most is the least, over all sets of agents, of the devices that host one of them over the seconds
    that they need together (max-flow min-cut: the work of a set can only be done there). Agents on the same hosts go
    together; sets whose hosts are apart need not be joined. Beyond ten kinds of hosts in one such set it is the rate at
    which the replicas of an agent have equal shares, which is not more than the most.
    """
    kinds: dict[frozenset[Hashable], list[str]] = {}
    for agent in seconds:
        kinds.setdefault(hosts[agent], []).append(agent)
    rates = []
    for joined in _joined(list(kinds)):
        if len(joined) > _MOST_KINDS:
            rates.append(_equal_shares(joined, kinds, seconds, sizes))
            continue
        for count in range(1, len(joined) + 1):
            for chosen in combinations(joined, count):
                agents = tuple(agent for kind in chosen for agent in kinds[kind])
                room = sum(sizes[host] for host in frozenset().union(*chosen))
                needed = sum(seconds[agent] for agent in agents)
                rates.append((room / needed if needed else float("inf"), agents))
    return min(rates, key=lambda found: (found[0], len(found[1])))


def num_devices(plan: Plan) -> int:
    """Return the number of GPUs of the cluster, or of its nodes if the actors use none."""
    gpus = sum(node.whole_gpus for node in plan.request.nodes)
    return gpus if plan.share.num_gpus else len(plan.request.nodes)


def _hosts(plan: Plan) -> dict[str, frozenset[Hashable]]:
    found: dict[str, set[Slot]] = {name: set() for name in plan.request.agents}
    for replica_id, slots in plan.slots.items():
        for agent in replica_id.agents:
            found[agent].update(slots)
    return {name: frozenset(slots) for name, slots in found.items()}


def _joined(kinds: list[frozenset[Hashable]]) -> Iterator[list[frozenset[Hashable]]]:
    """Yield the sets of kinds that share hosts, directly or by others."""
    left = list(kinds)
    while left:
        joined = reached = [left.pop()]
        while reached:
            hosts = frozenset().union(*reached)
            reached = [kind for kind in left if kind & hosts]
            left = [kind for kind in left if not kind & hosts]
            joined = joined + reached
        yield joined


def _equal_shares(
    joined: list[frozenset[Hashable]],
    kinds: Mapping[frozenset[Hashable], list[str]],
    seconds: Mapping[str, float],
    sizes: Mapping[Hashable, float],
) -> tuple[float, tuple[str, ...]]:
    load: dict[Hashable, float] = {}
    for kind in joined:
        room = sum(sizes[host] for host in kind)
        for host in kind:
            load[host] = load.get(host, 0.0) + sum(seconds[agent] for agent in kinds[kind]) / room
    fullest = max(load, key=lambda host: load[host])
    return 1 / load[fullest], tuple(agent for kind in joined if fullest in kind for agent in kinds[kind])


def _network_rate(transfers: Iterable[PlannedTransfer], plan: Plan, speeds: LinkSpeeds) -> float:
    """Return the questions per second that the networks of the nodes carry: each sends and receives its part."""
    crossing = 0.0
    for transfer in transfers:
        part = transfer.links.get("network", 0) / sum(transfer.links.values())
        crossing += part * transfer.num_bytes / plan.request.workload.batch_size
    return len(plan.nodes_used) * speeds.network / crossing if crossing else float("inf")


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
