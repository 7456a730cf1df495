"""Modelled links: how long segments take between two replicas, and how much crosses the network."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from latentmas_ray.placement import LinkSpeeds, Slot
from latentmas_ray.placement.link_speeds import PlannedLink


@dataclass(frozen=True)
class FetchedSegment:
    """A segment to fetch: the slots of the replica that wrote it, and whether the reader did so itself."""

    slots: Sequence[Slot]
    num_bytes: int
    is_own: bool = False


class ModelledLinks:
    """Links between slots. The network belongs to nodes: each has one port in each direction, which serves one
    transfer after another. All other links belong to the ranks that use them, and are never waited for.

    A port is never idle while something waits for it: a transfer that waits for one of its ports does not hold the
    other one, as the streams of several transfers share a real one.
    """

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

    def fetch(self, segments: Sequence[FetchedSegment], reader: Sequence[Slot], now: float) -> list[float]:
        """Return when the reader has each of the segments that it asks for at `now`; all in seconds.

        It fetches one after another over its own links, and all at once over the network. Every replica has one slot
        for each tensor-parallel rank. The ranks of a replica are on one node and move their parts at the same time:
        over their own links each moves 1/tp of the bytes, over the network they share their node's port.
        """
        arrived, arrivals = now, []
        for segment in segments:
            here, there = segment.slots[0], reader[0]
            link = self._speeds.link(here, there, same_actor=segment.is_own)
            self.moved_bytes[link] += segment.num_bytes
            if link == "network":
                arrived = max(arrived, self._cross(here.node, there.node, segment.num_bytes, now))
            else:
                arrived += self._speeds.seconds(link, segment.num_bytes / len(segment.slots))
            arrivals.append(arrived)
        return arrivals

    def _cross(self, source: int, reader: int, num_bytes: int, now: float) -> float:
        """Return when bytes are over that are sent from node to node from `now` on."""
        self.sent_bytes[source] += num_bytes
        self.received_bytes[reader] += num_bytes
        seconds = self._speeds.seconds("network", num_bytes)
        sent = self._sending_until[source] = max(now, self._sending_until.get(source, 0.0)) + seconds
        received = self._receiving_until[reader] = max(now, self._receiving_until.get(reader, 0.0)) + seconds
        return max(sent, received)
