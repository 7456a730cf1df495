"""Lines to nodes without a network: what a test says of them is what is read."""

from dataclasses import dataclass, field

from latentmas_ray.actors.health.node_line import LineReading, LineState
from latentmas_ray.actors.health.node_watch import NodeWatch

OPEN = LineReading(LineState.OPEN)


@dataclass
class Network:
    """A clock, and what a line to each host reads now. Every attempt to connect is counted."""

    now: float = 0.0
    readings: dict[str, LineReading] = field(default_factory=dict)  # of the others: OPEN
    local: frozenset[str] = frozenset()
    num_opened: int = 0

    def open_line(self, host: str, port: int) -> "FakeLine":
        self.num_opened += 1
        return FakeLine(self, host)

    def watch(self, *hosts: str) -> NodeWatch:
        """A watch of these hosts, each a node of the same name."""
        watch = NodeWatch(self.open_line, lambda: self.now)
        watch.watch({host: (host, 1) for host in hosts})
        return watch


@dataclass(eq=False)
class FakeLine:
    """A line whose reading is the network's."""

    network: Network
    host: str

    @property
    def is_local(self) -> bool:
        return self.host in self.network.local

    def read(self) -> LineReading:
        return self.network.readings.get(self.host, OPEN)

    def close(self) -> None:
        pass
