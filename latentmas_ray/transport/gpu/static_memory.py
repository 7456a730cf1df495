"""Memory that other processes read by its address, without asking: never given back, so that no address goes bad.

A slot's head holds a token while there is something to read. Whoever reads compares it with the one in the handle
*after* the bytes have come: if it still stands there, they had not been written over before.
"""

import secrets
import threading
from dataclasses import dataclass

import torch
from torch import Tensor

HEAD_BYTES = 256  # the token, and what keeps the body aligned
TOKEN_BYTES = 16
_MIN_BYTES = 2**16


@dataclass(eq=False)
class StaticSlot:
    """Memory of one chunk at a time: head and body."""

    number: int
    memory: Tensor  # flat uint8
    token: bytes = b""


class StaticMemory:
    """A process's slots: as many as it needed at one time. Safe to use from several threads."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._slots: list[StaticSlot] = []
        self._free: list[StaticSlot] = []
        self._full: dict[bytes, StaticSlot] = {}

    def write(self, body: Tensor) -> StaticSlot:
        """Copy a flat uint8 tensor into a slot that is free, or new. Returns when the bytes are there."""
        capacity = _round_up(body.numel())
        with self._lock:
            slot = next((slot for slot in self._free if slot.memory.numel() == HEAD_BYTES + capacity), None)
            if slot is None:
                memory = torch.zeros(HEAD_BYTES + capacity, dtype=torch.uint8, device=self._device)
                slot = StaticSlot(len(self._slots), memory)
                self._slots.append(slot)
            else:
                self._free.remove(slot)
            slot.memory[HEAD_BYTES : HEAD_BYTES + body.numel()].copy_(body)
            self._write_token(slot, secrets.token_bytes(TOKEN_BYTES))
            self._full[slot.token] = slot
            return slot

    def release(self, token: bytes) -> None:
        """The slot of this token may be written again. Safe to call twice."""
        with self._lock:
            if (slot := self._full.pop(token, None)) is not None:
                self._write_token(slot, bytes(TOKEN_BYTES))
                self._free.append(slot)

    def _write_token(self, slot: StaticSlot, token: bytes) -> None:
        slot.token = token
        # After everything before it, and before everything after it, as another process sees it.
        self._wait()
        slot.memory[:TOKEN_BYTES].copy_(torch.frombuffer(bytearray(token), dtype=torch.uint8))
        self._wait()

    def _wait(self) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)


def token_in(head: Tensor) -> bytes:
    """The token at the beginning of a slot, or of a copy of one."""
    return head[:TOKEN_BYTES].cpu().numpy().tobytes()


def _round_up(num_bytes: int) -> int:
    """Sizes are few, so that slots are used again: eight between a power of two and the next."""
    step = max(_MIN_BYTES, 1 << max(0, num_bytes.bit_length() - 4))
    return -(-num_bytes // step) * step
