"""Layouts: how many devices of a cluster host which agents, and those that are worth trying."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import floor

from latentmas_ray.placement.assignment import Slot
from latentmas_ray.placement.plan import Plan, PlanRequest
from latentmas_ray.placement.prediction.throughput import most_per_second

_MOST_AGENTS = 6  # of which all sets are tried as those that share devices
Contents = tuple[str, ...]  # the agents with an actor on a device, in topological order


@dataclass(frozen=True)
class Layout:
    """How many devices host which agents. A device is a GPU, `tp` GPUs of one node, or a node without GPUs.

    `is_colocated`: its agents share one actor there, and one copy of the weights.
    """

    counts: Mapping[Contents, int]
    is_colocated: bool = False

    @property
    def num_actors(self) -> int:
        return sum(count * (1 if self.is_colocated else len(contents)) for contents, count in self.counts.items())

    @property
    def shares_devices(self) -> bool:
        """Whether several actors are on one device."""
        return not self.is_colocated and any(len(contents) > 1 for contents in self.counts)

    def replicas(self, agents: Iterable[str]) -> dict[str, int]:
        """Return the number of replicas of each agent."""
        return {agent: sum(count for contents, count in self.counts.items() if agent in contents) for agent in agents}


def contents_of(plan: Plan) -> dict[Contents, int]:
    """Return how many devices of a plan host which agents."""
    on_device: defaultdict[tuple[Slot, ...], set[str]] = defaultdict(set)
    for replica_id, slots in plan.slots.items():
        on_device[slots].update(replica_id.agents)
    agents = plan.request.agents
    return dict(Counter(tuple(agent for agent in agents if agent in names) for names in on_device.values()))


def rate_of(layout: Layout, seconds: Mapping[str, float]) -> float:
    """Return the questions per second of a layout whose hand-overs take no time. `seconds`: of a device, by agent."""
    hosts = {agent: frozenset(contents for contents in layout.counts if agent in contents) for agent in seconds}
    return most_per_second(seconds, hosts, {contents: float(count) for contents, count in layout.counts.items()})[0]


def layouts_for(request: PlanRequest, seconds: Mapping[str, float], num_devices: int) -> list[Layout]:
    """Return the layouts to try for this many devices; most use all of them, and some may not fit into memory.

    All agents in one actor on each device; each agent with devices of its own, as many as its work needs; and sets of
    agents that share devices: some of their own, some of those of another agent, or all.
    """
    agents, placement = request.agents, request.placement
    found: list[Layout] = []
    if placement in ("auto", "colocate") and not request.apart and request.have_one_model(*agents):
        found.append(Layout({agents: num_devices}, is_colocated=True))
    if placement in ("auto", "pack"):
        for sharing in _sets_to_share(agents, seconds):
            others = tuple(agent for agent in agents if agent not in sharing)
            found += _on_own_devices(sharing, others, seconds, num_devices)
            found += _with_others(agents, sharing, others, seconds, num_devices)
    return list({(*sorted(one.counts.items()), one.is_colocated): one for one in found}.values())


def _sets_to_share(agents: Contents, seconds: Mapping[str, float]) -> Iterator[Contents]:
    """Yield sets of agents, the empty one first; of many agents only those with the least work."""
    if len(agents) <= _MOST_AGENTS:
        yield from (chosen for count in range(len(agents) + 1) for chosen in combinations(agents, count))
        return
    by_work = sorted(agents, key=lambda agent: seconds[agent])
    for count in range(len(agents) + 1):
        least = set(by_work[:count])
        yield tuple(agent for agent in agents if agent in least)


def _on_own_devices(
    sharing: Contents, others: Contents, seconds: Mapping[str, float], num_devices: int
) -> Iterator[Layout]:
    """Yield layouts in which `sharing` share devices without another agent, and the others share none."""
    if not sharing:
        if len(others) <= num_devices:
            yield Layout({(agent,): count for agent, count in divide(others, seconds, num_devices).items()})
        return
    most = num_devices - len(others)
    if not others:
        yield Layout({sharing: num_devices})
        return
    if len(sharing) == 1 or most < 1:
        return
    for count in _counts(most, _needed(sharing, seconds, num_devices)):
        own = divide(others, seconds, num_devices - count)
        yield Layout({sharing: count} | {(agent,): number for agent, number in own.items()})


def _with_others(
    agents: Contents, sharing: Contents, others: Contents, seconds: Mapping[str, float], num_devices: int
) -> Iterator[Layout]:
    """Yield layouts in which the others have all devices, and `sharing` share some of those of one of them."""
    if not sharing or not others or len(others) > num_devices:
        return
    own = divide(others, seconds, num_devices)
    for host in others:
        both = tuple(agent for agent in agents if agent == host or agent in sharing)
        for count in _counts(own[host], _needed(sharing, seconds, num_devices)):
            left = {(agent,): number - (count if agent == host else 0) for agent, number in own.items()}
            yield Layout({contents: number for contents, number in left.items() if number} | {both: count})


def divide(agents: Contents, seconds: Mapping[str, float], num_devices: int) -> dict[str, int]:
    """Divide devices among agents, at least one each, so that the one with the most work per device has the least.

    Each further device goes to that agent, which no other division improves. There must be enough devices.
    """
    counts = dict.fromkeys(agents, 1)
    total = sum(seconds[agent] for agent in agents)
    spare = num_devices - len(agents)
    if spare > 4 * len(agents) and total:  # what a fair division gives every agent at least; the rest one by one
        counts = {agent: max(1, floor(num_devices * seconds[agent] / total) - 1) for agent in agents}
        while sum(counts.values()) > num_devices:
            counts[max(agents, key=lambda agent: counts[agent])] -= 1
    for _ in range(num_devices - sum(counts.values())):
        counts[max(agents, key=lambda agent: seconds[agent] / counts[agent])] += 1
    return counts


def _needed(sharing: Contents, seconds: Mapping[str, float], num_devices: int) -> float:
    """Return the devices that the work of `sharing` would fill."""
    return num_devices * sum(seconds[agent] for agent in sharing) / sum(seconds.values())


def _counts(most: int, wanted: float) -> list[int]:
    """Return numbers of devices to try: few, what the work needs, powers of two, and all."""
    near = {floor(wanted) + step for step in (-1, 0, 1, 2)}
    tried = {*range(1, 9), *(2**power for power in range(4, 13)), *near, most}
    return sorted(count for count in tried if 1 <= count <= most)
