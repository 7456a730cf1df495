"""Transport through NIXL: a reader reads its producer's memory by the best hardware path between the two.

Needs the package `nixl` (extra `nixl`).
"""

import contextlib
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.authentication import ChunkId
from latentmas_ray.errors import ConfigError, TransferError
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_inputs
from latentmas_ray.transport.base import StatefulTransport
from latentmas_ray.transport.capabilities import BETWEEN_ACTORS, Capabilities
from latentmas_ray.transport.gpu.checksum import decode_with_checksum, encode_with_checksum
from latentmas_ray.transport.gpu.static_memory import HEAD_BYTES, StaticMemory, token_in
from latentmas_ray.transport.handles import SignedHandle, check_handle, sign_handle

_BACKEND = "UCX"
_SHORT_WAIT_SECONDS = 0.002  # small chunks arrive before a sleep would end
_SLEEP_SECONDS = 0.0005


@dataclass(frozen=True)
class NixlHandle(SignedHandle):
    """A chunk's header and the place of its KV: a NIXL agent, its metadata, and an address there."""

    header: bytes
    num_bytes: int
    checksum: bytes | None
    agent: str
    metadata: bytes
    address: bytes  # descriptors of the head and the body of a slot
    token: bytes


@dataclass
class _NixlState:
    agent: Any
    name: str
    slots: StaticMemory
    lock: threading.Lock = field(default_factory=threading.Lock)  # a NIXL agent is not thread-safe
    metadata: dict[int, bytes] = field(default_factory=dict)  # by slot
    abandoned: list[Tensor] = field(default_factory=list)  # memory that a failed read may still write to


class Nixl(StatefulTransport[_NixlState]):
    """Copies a packed chunk into registered memory, from which a reader reads it into its own.

    `unpack` waits at most `timeout_seconds` and raises TransferError if the producer is gone or has released the chunk.
    If the hardware cannot read remote memory, a NIXL thread in the producer sends it.
    """

    name = "nixl"
    capabilities = Capabilities(links=BETWEEN_ACTORS, one_sided=True, needs="nixl")

    def __init__(self, timeout_seconds: float = 30.0) -> None:
        self._timeout_seconds = timeout_seconds

    def _make_state(self) -> _NixlState:
        """Start a NIXL agent. Raises ConfigError if NIXL is missing or cannot start."""
        try:
            from nixl._api import nixl_agent, nixl_agent_config

            name = f"latentmas-{secrets.token_hex(8)}"
            agent = nixl_agent(name, nixl_agent_config(backends=[_BACKEND]))
        except (ImportError, RuntimeError) as error:
            raise ConfigError("transport", "nixl", f"the package nixl must work here: {error}") from error
        return _NixlState(agent, name, StaticMemory(_device()))

    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> NixlHandle:
        """Return a handle to a copy."""
        state = self._open_state
        header, body, checksum = encode_with_checksum(chunk, _device(), self.codec, self.authenticator, chunk_id)
        with state.lock:
            slot = state.slots.write(body)
            if slot.number not in state.metadata:
                registered = state.agent.register_memory([slot.memory], backends=[_BACKEND])
                state.metadata[slot.number] = state.agent.get_partial_agent_metadata(
                    registered, inc_conn_info=True, backends=[_BACKEND]
                )
            used = slot.memory[: HEAD_BYTES + body.numel()]
            address = state.agent.get_serialized_descs(state.agent.get_xfer_descs([used]))
            metadata = state.metadata[slot.number]
        handle = NixlHandle(header, body.numel(), checksum, state.name, metadata, address, slot.token)
        return sign_handle(handle, self.authenticator)

    def unpack(self, payload: NixlHandle, *, expected: KVCacheSpec, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Return a chunk in new memory."""
        state = self._open_state
        check_handle(payload, NixlHandle, self.authenticator)
        with state.lock:
            if payload.agent == state.name:
                raise TransferError("a process does not read its own memory through nixl")
            memory = self._read(state, payload)
        if token_in(memory) != payload.token:
            raise TransferError("the segment is gone: its producer has released it")
        return decode_with_checksum(
            payload.header,
            memory[HEAD_BYTES:],
            payload.checksum,
            self.authenticator,
            expected=expected,
            chunk_id=chunk_id,
        )

    def unpack_inputs(self, payload: NixlHandle, *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        check_handle(payload, NixlHandle, self.authenticator)
        return decode_inputs(payload.header, authenticator=self.authenticator, chunk_id=chunk_id)

    def release(self, payload: NixlHandle) -> None:
        """Release the slot for the next chunk of its size. A read that is still running fails its token check."""
        if self._state is not None and payload.agent == self._state.name:
            self._state.slots.release(payload.token)

    def _read(self, state: _NixlState, payload: NixlHandle) -> Tensor:
        """Read head and body of a slot into new memory. Raises TransferError."""
        agent = state.agent
        memory = torch.empty(HEAD_BYTES + payload.num_bytes, dtype=torch.uint8, device=_device())
        registered = agent.register_memory([memory], backends=[_BACKEND])
        transfer = None
        try:
            agent.add_remote_agent(payload.metadata)
            remote = agent.deserialize_descs(payload.address)
            transfer = agent.initialize_xfer("READ", agent.get_xfer_descs([memory]), remote, payload.agent)
            if not self._wait(agent, transfer):
                raise TransferError(f"no segment from {payload.agent}: it is gone")
        except Exception as error:
            # The producer may have died, so its metadata is removed.
            state.abandoned.append(memory)
            with contextlib.suppress(*_errors()):
                agent.remove_remote_agent(payload.agent)
            if isinstance(error, _errors()):
                raise TransferError(f"no segment from {payload.agent}: {error}") from error
            raise
        finally:
            with contextlib.suppress(*_errors()):
                if transfer is not None:
                    agent.release_xfer_handle(transfer)
                agent.deregister_memory(registered)
        return memory

    def _wait(self, agent: Any, transfer: Any) -> bool:
        """Wait for a transfer; return whether it succeeded. Raises TransferError after the time limit."""
        begin = time.monotonic()
        state = agent.transfer(transfer)
        while state == "PROC":
            waited = time.monotonic() - begin
            if waited > self._timeout_seconds:
                raise TransferError(f"nothing came for {self._timeout_seconds:g} s")
            if waited > _SHORT_WAIT_SECONDS:
                time.sleep(_SLEEP_SECONDS)
            state = agent.check_xfer_state(transfer)
        return bool(state == "DONE")


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _errors() -> tuple[type[Exception], ...]:
    """NIXL's exception classes, which have no common base class."""
    from nixl import _bindings

    named = (getattr(_bindings, name) for name in dir(_bindings) if name.startswith("nixl") and name.endswith("Error"))
    return tuple(named)
