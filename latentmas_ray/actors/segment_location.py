"""Which nodes hold a segment, and so what a reader's transfer moved."""

from dataclasses import dataclass, field, replace

from latentmas_ray.engine.turn import SegmentRead


@dataclass(eq=False)
class SegmentLocation:
    """The node of the actor that makes a segment, and the nodes whose actors have read it."""

    source_node: str
    stays: bool = False  # its readers are the actor that made it
    final_at: float | None = None  # when its turn was reported, by the driver's monotonic clock
    readers: set[str] = field(default_factory=set)

    def account(self, read: SegmentRead, *, reader_node: str, shares_node: bool) -> SegmentRead:
        """The transfer with its link and the bytes that it moved: where a node's readers share one copy, the first of
        them moves the whole segment, and the others find it there."""
        if self.stays:
            return replace(read, link="same_process", moved_bytes=0)
        is_first = reader_node not in self.readers
        self.readers.add(reader_node)
        return replace(
            read,
            link="same_node" if reader_node == self.source_node else "cross_node",
            moved_bytes=read.num_bytes if is_first or not shares_node else 0,
        )
