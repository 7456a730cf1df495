"""The summary over all controls of a run, and the folder that has theirs in it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

from latentmas_ray.config import MemoryName, RunConfig, describe_models
from latentmas_ray.errors import JournalError
from latentmas_ray.runs.controls.adoption import AdoptionFigures
from latentmas_ray.runs.controls.churn import Churn, churn_over_seeds
from latentmas_ray.runs.controls.gains import ControlGain, gains_over
from latentmas_ray.runs.controls.names import control_folders
from latentmas_ray.runs.folder import check_regular, make_folder, write_summary
from latentmas_ray.runs.hints.figures import compare_scores
from latentmas_ray.runs.hints.scores import ScoreName, Scores
from latentmas_ray.runs.journal import CONFIG_NAME, RESULTS_NAME, SUMMARY_NAME
from latentmas_ray.runs.multi_seed import SeedsSummary, check_no_seeds, mean_correct
from latentmas_ray.runs.results import Answer, Summary
from latentmas_ray.runs.store import Output, open_output
from latentmas_ray.stats import PairedDifference


@dataclass(frozen=True, kw_only=True)
class ControlsSummary:
    """The summary of a run with several memory controls on the same questions and actors: `summary.json` in the parent
    of their folders."""

    controls: tuple[MemoryName, ...]
    method: str
    topology: str
    model: str  # all models of the agents in one text
    num_questions: int  # of each control
    num_failed: int  # in all together
    gains: tuple[ControlGain, ...]  # of matched over each other control
    churn: Mapping[MemoryName, Churn]  # from matched to each other control
    adoption: AdoptionFigures | None  # of the control corrupted
    adopted_anyway: float | None  # share of matched answers that equal the wrong gold, although no agent got the error
    runs: Mapping[MemoryName, Summary | SeedsSummary]
    hint_gains: Mapping[MemoryName, Mapping[ScoreName, PairedDifference]] = field(
        default_factory=dict
    )  # of runs with hints

    def to_json(self) -> dict[str, Any]:
        """The object of summary.json."""
        return {**asdict(self), "runs": {name: summary.to_json() for name, summary in self.runs.items()}}


def summarise_controls(
    config: RunConfig,
    summaries: Mapping[MemoryName, Summary | SeedsSummary],
    answers: Mapping[MemoryName, Sequence[Sequence[Answer]]],
    *,
    adopted_anyway: float | None = None,
    hint_scores: Mapping[MemoryName, Mapping[str, Scores]] | None = None,
) -> ControlsSummary:
    """Return the summary; `answers` are those of each seed of each control, `hint_scores` those of each question with
    hints."""
    scores = hint_scores or {}
    corrupted = summaries.get("corrupted")
    return ControlsSummary(
        controls=tuple(summaries),
        method=config.method,
        topology=config.topology,
        model=describe_models(config.model, config.models),
        num_questions=max(summary.num_questions for summary in summaries.values()),
        num_failed=sum(summary.num_failed for summary in summaries.values()),
        gains=gains_over({name: mean_correct(runs) for name, runs in answers.items()}),
        churn={name: churn_over_seeds(answers["matched"], runs) for name, runs in answers.items() if name != "matched"},
        adoption=None if corrupted is None else corrupted.adoption,
        adopted_anyway=adopted_anyway,
        runs=summaries,
        hint_gains={name: compare_scores(own, scores["matched"]) for name, own in scores.items() if name != "matched"},
    )


class ControlsOutput:
    """The folder of all controls, for summary.json; it holds the folder of each. Without an output it does nothing."""

    def __init__(self, output: str | None, controls: Sequence[MemoryName]) -> None:
        """Raises JournalError if it holds a run without controls, or other controls."""
        self._stack = ExitStack()
        self._root: Output | None = None
        if output is None:
            return
        with ExitStack() as stack:
            self._root = stack.enter_context(open_output(output))
            _check_root(self._root, output, controls)
            self._stack = stack.pop_all()

    def start(self) -> None:
        """Remove the summary of an earlier start. Raises JournalError if the destination is not writable."""
        if self._root is not None:
            (self._root.folder / SUMMARY_NAME).unlink(missing_ok=True)
            self._root.start()

    def finish(self, summary: ControlsSummary) -> None:
        """Write the summary over all controls. Raises RunError if it cannot be written."""
        if self._root is not None:
            write_summary(self._root.folder / SUMMARY_NAME, summary.to_json())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _check_root(root: Output, output: str, controls: Sequence[MemoryName]) -> None:
    make_folder(root.folder)
    if found := [name for name in (CONFIG_NAME, RESULTS_NAME) if (root.folder / name).exists()]:
        raise JournalError(
            "output", output, f"it holds the {found[0]} of a run without controls; choose another folder"
        )
    check_no_seeds(root.folder)
    check_regular([root.folder / SUMMARY_NAME])
    if others := [name for name in control_folders(root.folder) if name not in controls]:
        expected = (
            f"it holds runs with the controls {', '.join(others)} too; name them as well, or choose another folder"
        )
        raise JournalError("output", output, expected)
