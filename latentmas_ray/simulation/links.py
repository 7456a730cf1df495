"""Modelled links: how long segments take between two replicas, and how much crosses the network."""

from collections import Counter
from collections.abc import Sequence

from latentmas_ray.placement import LinkSpeeds, Slot
from latentmas_ray.placement.link_speeds import PlannedLink


class ModelledLinks:
    """Links between slots. The network belongs to nodes: each has one port in each direction, which serves one
    transfer after another. All other links belong to the ranks that use them, and are never waited for."""

    def __init__(self, speeds: LinkSpeeds) -> None:
        self._speeds = speeds
        self._sending_until: dict[int, float] = {}  # by node, in seconds
        self._receiving_until: dict[int, float] = {}
        self.moved_bytes: Counter[PlannedLink] = Counter()
        self.received_bytes: Counter[int] = Counter()  # over the network, by node
        self.sent_bytes: Counter[int] = Counter()

    @property
    def busiest_port_bytes(self) -> int:
        """Bytes that the busiest port has sent, or received, over the network."""
        return max((*self.sent_bytes.values(), *self.received_bytes.values()), default=0)

    def transfer(
        self, source: Sequence[Slot], reader: Sequence[Slot], num_bytes: int, now: float, *, same_actor: bool
    ) -> float:
        """Return when the reader has a segment of `num_bytes`, if it asks for it at `now`; both in seconds.

        `source` and `reader` have one slot for each tensor-parallel rank. The ranks of a replica are on one node and
        move their parts at the same time: over their own links each moves 1/tp of the bytes, over the network they
        share their node's port.
        """
        here, there = source[0], reader[0]
        link = self._speeds.link(here, there, same_actor=same_actor)
        self.moved_bytes[link] += num_bytes
        if link != "network":
            return now + self._speeds.seconds(link, num_bytes / len(source))
        self.received_bytes[there.node] += num_bytes
        self.sent_bytes[here.node] += num_bytes
        begin = max(now, self._sending_until.get(here.node, 0.0), self._receiving_until.get(there.node, 0.0))
        end = begin + self._speeds.seconds(link, num_bytes)
        self._sending_until[here.node] = self._receiving_until[there.node] = end
        return end
