"""The interface of what moves working memory from one actor to another."""

from abc import ABC, abstractmethod
from copy import copy
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from latentmas_ray.config import CodecName
from latentmas_ray.errors import TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.buffers import empty_bytes
from latentmas_ray.transport.capabilities import Capabilities

S = TypeVar("S")


class Transport(ABC):
    """Turns a piece of a segment into what an actor's method returns, and back where it is read.

    Neither side mutates a piece. One object is made where the run is set up and pickled into every actor; `open` and
    `close` are called there.
    """

    # Of the class, but for one that wraps another transport and reports that one's.
    name: str
    capabilities: Capabilities
    codec: CodecName = "none"

    def with_codec(self, codec: CodecName) -> Self:
        """The same, sending KV through a lossy codec."""
        other = copy(self)
        other.codec = codec
        return other

    def within_one_node(self) -> Self:
        """The same for actors that all live on one node, where it may leave out what only a network needs."""
        return self

    def within_one_actor(self) -> Self:
        """The same for an actor that is the only reader of what it packs: where memory stays in its process, what goes
        out as a return value is a handle."""
        return self

    def open(self) -> None:  # noqa: B027  not every transport has something to do
        """Make ready to send and to receive in this process. Called once, before anything else."""

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        """A flat uint8 tensor for a piece's KV, from which it can be packed without another copy if there is a way.

        It belongs to whoever asked, who packs a piece in it before long, or drops it.
        """
        return empty_bytes(num_bytes, device)

    @abstractmethod
    def pack(self, piece: SegmentChunk) -> Any:
        """What travels as the return value of an actor's method: plain bytes and arrays, or a handle to them.

        The piece's bytes must not change until whoever called has returned the payload, nor until `release` where the
        payload is a handle.
        """

    @abstractmethod
    def unpack(self, payload: Any, *, expected: KVCacheSpec) -> SegmentChunk:
        """The piece of a payload, ready to be absorbed; valid as long as it is referenced.

        Waits a bounded time for bytes that are not here yet. Raises WireError for a damaged payload,
        IncompatibleMemoryError for memory of another model, TransferError where the bytes cannot be had (any more).
        """

    def fetch(self, payload: Any) -> None:  # noqa: B027  not every transport has something to do
        """Bring a payload's bytes to this machine, so that `unpack` finds them here; for readers that are busy.

        May run beside `unpack`. Raises like it.
        """

    def release(self, payload: Any) -> None:  # noqa: B027  not every transport has something to do
        """No reader will come any more: let go of what `pack` kept in this process for the payload."""

    def close(self) -> None:  # noqa: B027  not every transport has something to do
        """End what `open` began. Safe to call twice."""


class StatefulTransport(Transport, Generic[S]):
    """A transport with locks, threads or memory that exist only while it is open; none of them can be pickled."""

    _state: S | None = None

    @abstractmethod
    def _make_state(self) -> S:
        """What `open` begins. May raise ConfigError where the transport cannot work here."""

    def _end_state(self, state: S) -> None:
        """End what `_make_state` began."""

    def open(self) -> None:
        self._state = self._make_state()

    def close(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            self._end_state(state)

    @property
    def _opened(self) -> S:
        if self._state is None:
            raise TransferError(f"transport {self.name} is closed in this process")
        return self._state
