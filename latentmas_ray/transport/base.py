"""The interface of what moves working memory from one actor to another."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from latentmas_ray.memory import KVCacheSpec, Piece


class Transport(ABC):
    """Turns a piece of a segment into what an actor's method returns, and back where it is read.

    Neither side mutates a piece. One object is made where the run is set up and pickled into every actor; `open` and
    `close` are called there.
    """

    name: ClassVar[str]

    def open(self) -> None:  # noqa: B027  not every transport has something to do
        """Make ready to send and to receive in this process. Called once, before anything else."""

    @abstractmethod
    def pack(self, piece: Piece) -> Any:
        """What travels as the return value of an actor's method: plain bytes and arrays, or a handle to them.

        The piece's bytes must not change until whoever called has returned the payload, nor until `release` where the
        payload is a handle.
        """

    @abstractmethod
    def unpack(self, payload: Any, *, expected: KVCacheSpec) -> Piece:
        """The piece of a payload, ready to be absorbed; valid as long as it is referenced.

        Waits a bounded time for bytes that are not here yet. Raises WireError for a damaged payload,
        IncompatibleMemoryError for memory of another model, TransferError where the bytes cannot be had (any more).
        """

    def release(self, payload: Any) -> None:  # noqa: B027  not every transport has something to do
        """No reader will come any more: let go of what `pack` kept in this process for the payload."""

    def close(self) -> None:  # noqa: B027  not every transport has something to do
        """End what `open` began. Safe to call twice."""
