"""The cells of a study: one setting and seed each, and what the function that computes one is given and returns."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

SAVE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class StudyCell:
    """One setting and seed. What a cell gives depends on nothing else than these fields and the cells it comes after.

    `settings` is JSON: equal settings after a round trip through a file. `after` are the names of the cells whose
    weights it starts from or reads.
    """

    name: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """What a cell gives: `figures`, which are JSON, and the weights that other cells or users need, if any."""

    figures: Mapping[str, Any]
    weights: Mapping[str, Tensor] | None = None
    actors_cpu_seconds: float = 0.0  # of actors that the cell started, in addition to those of its own process


class CellRun:
    """What a cell's function is given: the cell, the weights it comes after, and a place for its state.

    A cell that was interrupted is computed again from `resumed`, the state that it saved last (None at the first
    time). It must give what an uninterrupted one gives: derive random numbers from the seed and the step.
    """

    def __init__(
        self,
        cell: StudyCell,
        weights: Mapping[str, Mapping[str, Tensor]],
        resumed: Any = None,
        *,
        write: Callable[[Any], None] | None = None,
        save_seconds: float = SAVE_SECONDS,
    ) -> None:
        """`weights` has an entry for each cell in `after`. `write` keeps a state; without it `save` does nothing."""
        self.cell, self.weights, self.resumed = cell, weights, resumed
        self._write, self._save_seconds = write, save_seconds
        self._saved = time.monotonic()

    @property
    def start(self) -> Mapping[str, Tensor]:
        """The weights of the first cell in `after`."""
        return self.weights[self.cell.after[0]]

    def save(self, make_state: Callable[[], Any]) -> None:
        """Keep a state to resume from if the last one is old enough: call it after every step.

        The state consists of tensors, numbers, strings, and lists and dicts of them, as `torch.save` writes and
        `torch.load(weights_only=True)` reads.
        """
        if self._write is not None and time.monotonic() - self._saved >= self._save_seconds:
            self._write(make_state())
            self._saved = time.monotonic()


CellFunction = Callable[[CellRun], CellResult]
