"""Memory that other processes read by its address: never freed, so that addresses stay valid.

A slot's head holds a token while the slot can be read. A reader compares it with the token of the handle *after* it has
read the bytes: if they are equal, the bytes were not overwritten.
"""

import secrets
import threading
from dataclasses import dataclass

import torch
from torch import Tensor

HEAD_BYTES = 256  # the token, and padding that aligns the body
TOKEN_BYTES = 16
_MIN_BYTES = 2**16


@dataclass(eq=False)
class StaticSlot:
    """Memory for one chunk at a time: head and body."""

    number: int
    memory: Tensor  # flat uint8
    token: bytes = b""


class StaticMemory:
    """A process's slots, as many as it needed at the same time. Thread-safe."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._slots: list[StaticSlot] = []
        self._free: list[StaticSlot] = []
        self._full: dict[bytes, StaticSlot] = {}

    def write(self, body: Tensor) -> StaticSlot:
        """Copy a flat uint8 tensor into a free or new slot. Returns when the copy is complete."""
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
        """Release the slot of this token for reuse. Safe to call twice."""
        with self._lock:
            if (slot := self._full.pop(token, None)) is not None:
                self._write_token(slot, bytes(TOKEN_BYTES))
                self._free.append(slot)

    def _write_token(self, slot: StaticSlot, token: bytes) -> None:
        slot.token = token
        # Other processes must see the token after all earlier writes and before all later ones.
        self._wait()
        slot.memory[:TOKEN_BYTES].copy_(torch.frombuffer(bytearray(token), dtype=torch.uint8))
        self._wait()

    def _wait(self) -> None:
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)


def token_in(head: Tensor) -> bytes:
    """The token at the beginning of a slot or of a copy of one."""
    return head[:TOKEN_BYTES].cpu().numpy().tobytes()


def _round_up(num_bytes: int) -> int:
    """Round up to one of eight sizes per power of two, so that slots can be reused."""
    step = max(_MIN_BYTES, 1 << max(0, num_bytes.bit_length() - 4))
    return -(-num_bytes // step) * step
