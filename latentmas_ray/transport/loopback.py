"""Within one process: memory is handed over as it is. For the local runtime and for tests."""

from typing import ClassVar

from latentmas_ray.memory import KVCacheSpec, Piece
from latentmas_ray.transport.base import Transport
from latentmas_ray.transport.traits import TRAITS, Traits


class Loopback(Transport):
    """Moves no bytes."""

    name: ClassVar[str] = "loopback"
    traits: ClassVar[Traits] = TRAITS["loopback"]

    def pack(self, piece: Piece) -> Piece:
        """The piece itself."""
        return piece

    def unpack(self, payload: Piece, *, expected: KVCacheSpec) -> Piece:
        """The piece itself. Raises IncompatibleMemoryError for memory of another model."""
        expected.check_same(payload.outline.spec)
        return payload
