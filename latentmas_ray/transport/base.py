"""The interface of what moves a segment from one actor to another."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from latentmas_ray.memory import KVCacheSpec, Segment


class Transport(ABC):
    """Turns a segment into what an actor's method returns, and what the next actor is given back into a segment.

    Neither side mutates a segment. A packed segment is valid as long as somebody holds a reference to it.
    """

    name: ClassVar[str]

    @abstractmethod
    def pack(self, segment: Segment) -> Any:
        """What travels: plain bytes and arrays, or a handle."""

    @abstractmethod
    def unpack(self, payload: Any, *, expected: KVCacheSpec) -> Segment:
        """The segment of a payload, ready to be absorbed.

        Raises WireError for a damaged payload, IncompatibleMemoryError for memory of another model.
        """
