"""The interface of transports, which move working memory from one actor to another."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from copy import copy
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor

from latentmas_ray.authentication import Authenticator, ChunkId, RunKey, process_key
from latentmas_ray.config import ActorLink, CodecName
from latentmas_ray.errors import TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.buffers import empty_bytes
from latentmas_ray.transport.capabilities import Capabilities, Place

S = TypeVar("S")


class Transport(ABC):
    """Packs a segment chunk into a payload that an actor's method returns, and unpacks it where it is read.

    Neither side mutates a chunk. One object is made where the run is set up and pickled into every actor, which calls
    `open`, with the key of the run, and `close`. The key is not pickled with it.
    """

    # Class attributes, except in a transport that wraps another and reports that one's.
    name: str
    capabilities: Capabilities
    codec: CodecName = "none"
    _authenticator: Authenticator | None = None

    def with_codec(self, codec: CodecName) -> Self:
        """A copy that encodes KV with `codec`."""
        other = copy(self)
        other.codec = codec
        return other

    def within_one_node(self) -> Self:
        """A copy for actors that are all on one node; it may omit what only a network needs."""
        return self

    def within_one_actor(self) -> Self:
        """A copy for an actor that reads what it packs itself: memory that stays in its process is returned as a
        handle."""
        return self

    def at(self, place: Place) -> Self:
        """A copy for a process at this place, if that matters. Called before `open`."""
        return self

    def for_links(self, links: Collection[ActorLink] | None) -> "Transport":
        """This open transport, packing only what readers on these links need (None: on any)."""
        return self

    def open(self, key: RunKey | None = None) -> None:
        """Prepare to send and receive in this process. Called once, before any other method.

        What is packed can be unpacked where the transport was opened with the same key. The default is a key that only
        this process has.
        """
        self._authenticator = Authenticator(key or process_key())

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        """Return a flat uint8 tensor for a chunk's KV, which `pack` can send without another copy if possible.

        The caller owns it, and packs a chunk in it or drops it before the next call.
        """
        return empty_bytes(num_bytes, device)

    @abstractmethod
    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> Any:
        """Return the payload that an actor's method returns: plain bytes and arrays, or a handle to them.

        `chunk_id` is the name under which it can be unpacked; without one it has the empty name.
        The chunk's bytes must not change before the caller has returned the payload; if the payload is a handle, not
        before `release`.
        """

    @abstractmethod
    def unpack(self, payload: Any, *, expected: KVCacheSpec, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Return the chunk of a payload, ready to be absorbed; valid as long as it is referenced. Several threads may
        call it at the same time.

        Waits a bounded time for bytes that have not arrived. Raises WireError for a payload that is damaged, of another
        run, or not the chunk `chunk_id` if that is given; IncompatibleMemoryError for memory of another model,
        TransferError if the bytes are not available.
        """

    @abstractmethod
    def unpack_inputs(self, payload: Any, *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Return the chunk of a payload without its KV: its meta data and its recompute inputs, of any model. They are
        in the payload itself, so nothing is waited for. Raises WireError like `unpack`, TransferError if it is gone."""

    def fetch(self, payload: Any) -> None:  # noqa: B027  optional
        """Copy a payload's bytes to this machine before `unpack` needs them; for readers that are busy.

        May run in parallel to `unpack`. Raises like it.
        """

    def release(self, payload: Any) -> None:  # noqa: B027  optional
        """Release what `pack` stored in this process for the payload: it will not be read any more."""

    def name_of(self, payload: Any) -> str:
        """The name, for accounts, of what moves this payload's bytes to this process."""
        return self.name

    def close(self) -> None:  # noqa: B027  optional
        """Shut down what `open` started. Safe to call twice."""

    @property
    def authenticator(self) -> Authenticator:
        """What makes and checks the tags of this process. Before `open`, with a key that only this process has."""
        if self._authenticator is None:
            self._authenticator = Authenticator(process_key())
        return self._authenticator

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_authenticator"}


class StatefulTransport(Transport, Generic[S]):
    """A transport with locks, threads or memory that exist only while it is open; its state cannot be pickled."""

    _state: S | None = None

    @abstractmethod
    def _make_state(self) -> S:
        """Start what the transport needs. May raise ConfigError if the transport does not work here."""

    def _end_state(self, state: S) -> None:
        """Shut down what `_make_state` started."""

    def open(self, key: RunKey | None = None) -> None:
        super().open(key)
        self._state = self._make_state()

    def close(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            self._end_state(state)

    @property
    def _open_state(self) -> S:
        if self._state is None:
            raise TransferError(f"transport {self.name} is closed in this process")
        return self._state
