"""A timer for the phases of a turn."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch

from latentmas_ray.engine.turn import PhaseName, PhaseSpan

_PHASES: tuple[PhaseName, ...] = get_args(PhaseName)


class PhaseTimer:
    """Measures seconds per phase; waits for the device at both ends of a phase."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.spans: list[PhaseSpan] = []  # of the phases of turns, in the order of time

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.drain()
        begin_at, begin = time.time(), time.perf_counter()
        yield
        self.drain()
        seconds = time.perf_counter() - begin
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if name in _PHASES:
            # The duration is that of the clock that never jumps.
            self.spans.append(PhaseSpan(phase=name, begin=begin_at, end=begin_at + seconds))

    def drain(self) -> None:
        """Wait until the device's queue is empty."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
