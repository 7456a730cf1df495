"""A timer on a pretended GPU, which the actors that have a turn there share equally."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.scaling.timer_runner import TimerRunner

_SLICE_SECONDS = 0.02


@dataclass
class TimeSlicedRunner(TimerRunner):
    """A timer whose seconds are of the whole GPU: with n turns there they pass n times as slowly. Each turn that runs
    is a file in the GPU's folder."""

    folder: Path
    device: str = field(default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES", "none"))

    def __post_init__(self) -> None:
        TimerRunner.__init__(self)
        (self.folder / self.device).mkdir(exist_ok=True)

    def compute(self, seconds: float) -> None:
        """Return when so many seconds of the GPU have passed for this turn."""
        mark = self.folder / self.device / str(os.getpid())
        mark.touch()
        try:
            left, before = seconds, time.monotonic()
            while left > 0:
                time.sleep(min(_SLICE_SECONDS, left))
                now = time.monotonic()
                left -= (now - before) / max(1, len(list(mark.parent.iterdir())))
                before = now
        finally:
            mark.unlink()
