"""The loop that both trainings share: steps, their figures, and the state from which an interrupted one resumes."""

from collections.abc import Callable, Mapping
from typing import Any

from examples.tiny_model.run import means
from examples.training.protocol.model import TrainedModel
from examples.training.studies.cell import CellResult, CellRun

_REPORT_STEPS = 10


def run_steps(
    run: CellRun, trained: TrainedModel, num_steps: int, take_step: Callable[[int], Mapping[str, float]]
) -> CellResult:
    """Call `take_step` with the numbers of the steps that are left; it returns figures.

    The result has the trained weights, and as figures `history`, the means of every ten steps, and `final`, the last
    of them.
    """
    begin = 0
    history: list[dict[str, float]] = []
    recent: list[dict[str, float]] = []
    if run.resumed is not None:
        begin, history, recent = (run.resumed[name] for name in ("step", "history", "recent"))
        trained.optimized.load(run.resumed["optimized"])

    def state() -> dict[str, Any]:
        return {"step": step + 1, "history": history, "recent": recent, "optimized": trained.optimized.state()}

    for step in range(begin, num_steps):
        recent.append(dict(take_step(step)))
        if (step + 1) % _REPORT_STEPS == 0 or step + 1 == num_steps:
            history.append({"step": step + 1, **means(recent)})
            recent = []
        run.save(state)
    return CellResult(figures={"history": history, "final": history[-1]}, weights=trained.weights())
