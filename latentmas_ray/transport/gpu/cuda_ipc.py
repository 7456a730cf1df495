"""Between actors on one GPU: a reader copies from its producer's memory within the GPU."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import reductions

from latentmas_ray.errors import TransferError, first_line
from latentmas_ray.memory import KVCacheSpec, SegmentChunk
from latentmas_ray.transport.available import gpu_in_use
from latentmas_ray.transport.base import StatefulTransport
from latentmas_ray.transport.capabilities import Capabilities
from latentmas_ray.transport.gpu.checksum import decode_with_checksum, encode_with_checksum
from latentmas_ray.transport.gpu.static_memory import HEAD_BYTES, StaticMemory, StaticSlot, token_in


@dataclass(frozen=True)
class CudaHandle:
    """A chunk's header, and the slot where its KV lies as torch describes it to another process."""

    header: bytes
    num_bytes: int
    checksum: int | None
    gpu: str
    pid: int
    process: bytes  # a number of the producer's own: process ids are used again
    slot: int
    token: bytes
    shared: tuple[Any, ...]  # what `reductions.reduce_tensor` returned


@dataclass(frozen=True)
class _IpcState:
    process: bytes
    slots: StaticMemory
    shared: dict[int, tuple[Any, ...]]  # by slot: it is described once and then belongs to all readers
    mapped: dict[tuple[bytes, int], Tensor]  # by producer and slot: CUDA lets a process map memory once


class CudaIpc(StatefulTransport[_IpcState]):
    """One copy within the GPU when a chunk is packed and one when it is read; nothing leaves it.

    The second copy is why a reader's chunk stays as it is after `release`: torch counts the readers of what it shares,
    but takes for granted that every handle is read exactly once. Slots are kept until the process ends.
    """

    name = "cuda_ipc"
    capabilities = Capabilities(
        devices=frozenset({"cuda"}), links=frozenset({"same_gpu"}), one_sided=True, shares_node=True, needs="cuda"
    )

    def _make_state(self) -> _IpcState:
        """Where the actor's GPU is the current one."""
        return _IpcState(os.urandom(16), StaticMemory("cuda"), {}, {})

    def pack(self, chunk: SegmentChunk) -> CudaHandle:
        """A handle to a copy on the GPU."""
        opened = self._opened
        header, body, checksum = encode_with_checksum(chunk, "cuda", self.codec)
        slot = opened.slots.write(body)
        if slot.number not in opened.shared:
            opened.shared[slot.number] = self._describe(slot)
        return CudaHandle(
            header,
            body.numel(),
            checksum,
            gpu_in_use(),
            os.getpid(),
            opened.process,
            slot.number,
            slot.token,
            opened.shared[slot.number],
        )

    def unpack(self, payload: CudaHandle, *, expected: KVCacheSpec) -> SegmentChunk:
        """A chunk in memory of its own on this GPU. Raises TransferError where the producer is gone or has released."""
        opened = self._opened
        gone = f"the segment is gone: process {payload.pid}, which held it, has released it or died"
        if payload.gpu != gpu_in_use():
            raise TransferError(f"the segment is on GPU {payload.gpu} and this actor on {gpu_in_use()}")
        where = (payload.process, payload.slot)
        if not Path(f"/proc/{payload.pid}").exists():
            opened.mapped.pop(where, None)
            raise TransferError(gone)
        try:
            if where not in opened.mapped:
                rebuild, arguments = payload.shared
                opened.mapped[where] = rebuild(*arguments)
            memory = opened.mapped[where]
            body = memory[HEAD_BYTES : HEAD_BYTES + payload.num_bytes].clone()
            torch.cuda.synchronize()
            token = token_in(memory)
        except RuntimeError as error:
            raise TransferError(f"{gone} ({first_line(error)})") from error
        if token != payload.token:
            raise TransferError(gone)
        return decode_with_checksum(payload.header, body, payload.checksum, expected=expected)

    def release(self, payload: CudaHandle) -> None:
        """The slot is written again with the next chunk of its size."""
        if self._state is not None and payload.process == self._state.process:
            self._state.slots.release(payload.token)

    def _describe(self, slot: StaticSlot) -> tuple[Any, ...]:
        described: tuple[Any, ...] = reductions.reduce_tensor(slot.memory)
        return described
