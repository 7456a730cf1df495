"""A study whose cells only count: what its tasks do is told by their settings, so that tests can make them fail."""

import os
from pathlib import Path

import torch

from examples.training.studies.cell import CellResult, CellRun, StudyCell


def count(run: CellRun) -> CellResult:
    """Add 1 to the weights it comes after, `steps` times, and save the sum after each; then what `settings` say.

    `fails`: raise. `dies`: a file; if it is there, remove it and end the process after the second step.
    """
    settings = run.cell.settings
    state = {"step": 0, "total": torch.zeros(1)} if run.resumed is None else run.resumed
    resumed_at = state["step"]
    if resumed_at == 0:
        state["total"] = sum((weights["total"] for weights in run.weights.values()), torch.zeros(1))
    while state["step"] < settings.get("steps", 1):
        state = {"step": state["step"] + 1, "total": state["total"] + 1}
        run.save(lambda state=state: state)
        if state["step"] == 2 and "dies" in settings and Path(settings["dies"]).exists():
            Path(settings["dies"]).unlink()
            os._exit(1)
    if settings.get("fails"):
        raise RuntimeError("this cell fails\nwith a second line")
    figures = {"total": float(state["total"]), "resumed_at": resumed_at, "process": os.getpid()}
    return CellResult(figures=figures, weights={"total": state["total"]})


def cell(name: str, *after: str, seed: int = 1, **settings: object) -> StudyCell:
    """A cell that `count` computes."""
    return StudyCell(name=name, seed=seed, settings=settings, after=after)
