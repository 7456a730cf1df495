"""A timer for the phases of a turn."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class PhaseTimer:
    """Measures seconds per phase; waits for the device at both ends of a phase."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.drain()
        begin = time.perf_counter()
        yield
        self.drain()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def drain(self) -> None:
        """Wait until the device's queue is empty."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
