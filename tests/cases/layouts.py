"""A simulation of replicas that share devices, in virtual time, to compare predictions with."""

import heapq
from collections.abc import Mapping, Sequence

IN_FLIGHT = 6  # batches for each device
_LEAST = 1e-9  # seconds of work that count as none


class Device:
    """Actors of some agents, each with its queue. Those with a turn share the device's time equally."""

    def __init__(self, agents: Sequence[str]) -> None:
        self.agents = agents
        self.pending = dict.fromkeys(agents, 0)  # turns that are not over
        self._ready: dict[str, list[int]] = {agent: [] for agent in agents}  # batches whose memory is there
        self._left: dict[str, tuple[int, float]] = {}  # the batch of an actor's turn, and its seconds

    def submit(self, agent: str, batch: int) -> None:
        heapq.heappush(self._ready[agent], batch)

    def start(self, seconds: Mapping[str, float]) -> None:
        """Begin the turns of idle actors, those of the earliest batches."""
        for agent, queue in self._ready.items():
            if queue and agent not in self._left:
                self._left[agent] = heapq.heappop(queue), seconds[agent]

    def next_end(self) -> float:
        """Return the seconds until a turn ends."""
        return min((left for _, left in self._left.values()), default=float("inf")) * len(self._left or [0])

    def work(self, passed: float) -> list[tuple[str, int]]:
        """Let time pass; return the turns that end."""
        part = passed / len(self._left or [0])
        self._left = {agent: (batch, left - part) for agent, (batch, left) in self._left.items()}
        ended = [(agent, batch) for agent, (batch, left) in self._left.items() if left < _LEAST]
        for agent, _ in ended:
            del self._left[agent]
            self.pending[agent] -= 1
        return ended


def simulate_chain(seconds: Mapping[str, float], contents: Sequence[Sequence[str]], num_batches: int) -> float:
    """Return the batches per second of a chain of agents, which work in the order of `seconds`.

    `contents`: the agents with an actor on each device. As in a run, all turns of a batch get their actors when the
    batch is admitted: those of the agent with the fewest turns that are not over. As many batches are under way as keep
    everything busy.
    """
    devices, order = [Device(agents) for agents in contents], list(seconds)
    now, done, admitted = 0.0, 0, 0
    chosen: dict[tuple[int, str], Device] = {}
    while done < num_batches:
        while admitted < num_batches and admitted - done < IN_FLIGHT * len(devices):
            for agent in order:
                hosts = [device for device in devices if agent in device.agents]
                device = min(hosts, key=lambda one: (one.pending[agent], len(one.agents)))
                device.pending[agent] += 1
                chosen[admitted, agent] = device
            chosen[admitted, order[0]].submit(order[0], admitted)
            admitted += 1
        for device in devices:
            device.start(seconds)
        passed = min(device.next_end() for device in devices)
        now += passed
        for agent, batch in [turn for device in devices for turn in device.work(passed)]:
            if agent == order[-1]:
                done += 1
            else:
                following = order[order.index(agent) + 1]
                chosen[batch, following].submit(following, batch)
    return num_batches / now
