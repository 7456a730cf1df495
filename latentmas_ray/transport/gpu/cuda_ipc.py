"""Transport between actors on one GPU: a reader copies from its producer's memory within the GPU."""

import os
import pickle
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import reductions

from latentmas_ray.authentication import ChunkId
from latentmas_ray.errors import TransferError, first_line
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.memory.wire import decode_inputs
from latentmas_ray.transport.available import gpu_in_use
from latentmas_ray.transport.base import StatefulTransport
from latentmas_ray.transport.capabilities import Capabilities
from latentmas_ray.transport.gpu.checksum import decode_with_checksum, encode_with_checksum
from latentmas_ray.transport.gpu.static_memory import HEAD_BYTES, StaticMemory, StaticSlot, token_in
from latentmas_ray.transport.handles import SignedHandle, check_handle, sign_handle


@dataclass(frozen=True)
class CudaHandle(SignedHandle):
    """A chunk's header, and the slot of its KV, with torch's handle for other processes."""

    header: bytes
    num_bytes: int
    checksum: bytes | None
    gpu: str
    pid: int
    process: bytes  # a random id of the producer: process ids are reused
    slot: int
    token: bytes
    shared: bytes  # what `reductions.reduce_tensor` returned, pickled: only unpickled once the handle is checked


@dataclass(frozen=True)
class _IpcState:
    process: bytes
    slots: StaticMemory
    shared: dict[int, bytes]  # by slot; each is described once, for all readers
    mapped: dict[tuple[bytes, int], Tensor]  # by producer and slot; CUDA lets a process map memory only once
    lock: threading.Lock = field(default_factory=threading.Lock)  # of `mapped`


class CudaIpc(StatefulTransport[_IpcState]):
    """Copies within the GPU: once when a chunk is packed, once when it is read.

    The second copy protects a reader's chunk after `release`: torch counts the readers of shared memory, but assumes
    that every handle is read exactly once. Slots exist until the process ends.
    """

    name = "cuda_ipc"
    capabilities = Capabilities(
        devices=frozenset({"cuda"}), links=frozenset({"same_gpu"}), one_sided=True, shares_node=True, needs="cuda"
    )

    def _make_state(self) -> _IpcState:
        """The actor's GPU must be the current one."""
        return _IpcState(os.urandom(16), StaticMemory("cuda"), {}, {})

    def pack(self, chunk: SegmentChunk, chunk_id: ChunkId | None = None) -> CudaHandle:
        """Return a handle to a copy on the GPU."""
        state = self._open_state
        header, body, checksum = encode_with_checksum(chunk, "cuda", self.codec, self.authenticator, chunk_id)
        slot = state.slots.write(body)
        if slot.number not in state.shared:
            state.shared[slot.number] = self._describe(slot)
        handle = CudaHandle(
            header,
            body.numel(),
            checksum,
            gpu_in_use(),
            os.getpid(),
            state.process,
            slot.number,
            slot.token,
            state.shared[slot.number],
        )
        return sign_handle(handle, self.authenticator)

    def unpack(self, payload: CudaHandle, *, expected: KVCacheSpec, chunk_id: ChunkId | None = None) -> SegmentChunk:
        """Return a chunk in new memory on this GPU. Raises TransferError if the producer is gone or released it."""
        state = self._open_state
        check_handle(payload, CudaHandle, self.authenticator)
        gone = f"the segment is gone: process {payload.pid}, which held it, has released it or died"
        if payload.gpu != gpu_in_use():
            raise TransferError(f"the segment is on GPU {payload.gpu} and this actor on {gpu_in_use()}")
        where = (payload.process, payload.slot)
        if not Path(f"/proc/{payload.pid}").exists():
            state.mapped.pop(where, None)
            raise TransferError(gone)
        try:
            with state.lock:
                if where not in state.mapped:
                    rebuild, arguments = pickle.loads(payload.shared)  # a process of this run has signed it
                    state.mapped[where] = rebuild(*arguments)
                memory = state.mapped[where]
            body = memory[HEAD_BYTES : HEAD_BYTES + payload.num_bytes].clone()
            torch.cuda.synchronize()
            token = token_in(memory)
        except RuntimeError as error:
            raise TransferError(f"{gone} ({first_line(error)})") from error
        if token != payload.token:
            raise TransferError(gone)
        return decode_with_checksum(
            payload.header, body, payload.checksum, self.authenticator, expected=expected, chunk_id=chunk_id
        )

    def unpack_inputs(self, payload: CudaHandle, *, chunk_id: ChunkId | None = None) -> SegmentChunk:
        check_handle(payload, CudaHandle, self.authenticator)
        return decode_inputs(payload.header, authenticator=self.authenticator, chunk_id=chunk_id)

    def release(self, payload: CudaHandle) -> None:
        """Release the slot for the next chunk of its size."""
        if self._state is not None and payload.process == self._state.process:
            self._state.slots.release(payload.token)

    def _describe(self, slot: StaticSlot) -> bytes:
        described: tuple[Any, ...] = reductions.reduce_tensor(slot.memory)
        return pickle.dumps(described)
