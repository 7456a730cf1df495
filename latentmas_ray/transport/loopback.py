"""Within one process: a segment is handed over as it is. For the local runtime and for tests."""

from typing import ClassVar

from latentmas_ray.memory import KVCacheSpec, Segment
from latentmas_ray.transport.base import Transport


class Loopback(Transport):
    """Moves no bytes."""

    name: ClassVar[str] = "loopback"

    def pack(self, segment: Segment) -> Segment:
        """The segment itself."""
        return segment

    def unpack(self, payload: Segment, *, expected: KVCacheSpec) -> Segment:
        """The segment itself. Raises IncompatibleMemoryError for memory of another model."""
        expected.check_same(payload.spec)
        return payload
