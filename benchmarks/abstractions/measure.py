"""Runs every cell on one loaded model, each in an output folder that is continued, and reads their figures back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.abstractions.settings import BARE, HintBenchSettings, HintCell
from latentmas_ray import LatentMAS
from latentmas_ray.config import MemoryName
from latentmas_ray.models.given import ModelObject, TokenizerObject
from latentmas_ray.models.load import load_model
from latentmas_ray.report.runs import load_run
from latentmas_ray.runs.hints.figures import compare_scores, hint_figures, score_questions
from latentmas_ray.runs.hints.scores import HintFigures, ScoreName, Scores
from latentmas_ray.runs.journal import SUMMARY_NAME
from latentmas_ray.runs.results import Answer
from latentmas_ray.stats import PairedDifference
from latentmas_ray.system.fields import RunFields
from latentmas_ray.tasks import Question, load_questions
from latentmas_ray.tasks.hints.copies import copies_for_hints


@dataclass(frozen=True, kw_only=True)
class HintCellFigures:
    """What was measured of one cell under one control."""

    cell: HintCell
    control: MemoryName
    figures: HintFigures
    over_bare: Mapping[ScoreName, PairedDifference]  # minus the solver alone, with as many answers in as many groups
    over_control: Mapping[ScoreName, PairedDifference]  # matched minus this control; empty for matched itself


def measure(settings: HintBenchSettings, tell: Callable[[str], None]) -> list[HintCellFigures]:
    """Return the figures of every cell. What is in the folder already is not run again. Raises InputError kinds."""
    lm = load_model(settings.model, dtype=settings.dtype)  # once, for all cells
    runs = [(cell, control) for cell in settings.cells() for control in settings.controls(cell)]
    # The controls last: what was interrupted has the sweep, and some of them.
    for cell, control in sorted(runs, key=lambda run: run[1] not in ("matched", "none")):
        tell(f"{cell.folder} {control}")
        _run(settings, cell, control, lm.model, lm.chat.tokenizer)
    return read_figures(settings)


def read_figures(settings: HintBenchSettings) -> list[HintCellFigures]:
    """Return the figures of the cells that are finished in the output folder; none of a task whose solver alone is
    not."""
    found = []
    for task in settings.tasks:
        cells = [cell for cell in settings.cells() if cell.task == task]
        if not _is_finished(settings, cells[0], "none"):
            continue
        bare = load_run(_folder(settings, cells[0], "none")).answers
        for cell in cells:
            groups = [*settings.hints] if cell.source == BARE else [cell.num_hints]
            for num_hints in groups:
                found += _figures_of(settings, cell, num_hints, bare)
    return found


def _figures_of(
    settings: HintBenchSettings, cell: HintCell, num_hints: int, bare: tuple[Answer, ...]
) -> list[HintCellFigures]:
    """Return the figures of one cell under each control; of the solver alone for so many groups of answers."""
    own_bare = _grouped(bare, settings.budget // num_hints)
    base = _scored(settings, cell.task, own_bare)
    if cell.source == BARE:
        shown = cell._replace(num_hints=num_hints, num_answers=settings.budget // num_hints)
        figures = _figures(settings, shown, own_bare)
        return [HintCellFigures(cell=shown, control="none", figures=figures, over_bare={}, over_control={})]
    found: list[HintCellFigures] = []
    matched: Mapping[str, Scores] = {}
    for control in (one for one in settings.controls(cell) if _is_finished(settings, cell, one)):
        answers = load_run(_folder(settings, cell, control)).answers
        scores = _scored(settings, cell.task, answers)
        matched = scores if control == "matched" else matched
        found.append(
            HintCellFigures(
                cell=cell,
                control=control,
                figures=_figures(settings, cell, answers),
                over_bare=compare_scores(base, scores),
                over_control={} if control == "matched" else compare_scores(scores, matched),
            )
        )
    return found


def _grouped(answers: tuple[Answer, ...], size: int) -> tuple[Answer, ...]:
    """Return the answers of the solver alone in groups of this size, as if each group had a hint of its own."""
    return tuple(
        replace(answer, hint=replace(answer.hint, number=(answer.hint.number - 1) // size + 1))
        for answer in answers
        if answer.hint is not None
    )


def _questions(settings: HintBenchSettings, task: str) -> dict[str, Question]:
    copies = copies_for_hints(load_questions(task, settings.limit), max(settings.budget, *settings.hints), "own")
    return {copy.id: copy for copy in copies}


def _scored(settings: HintBenchSettings, task: str, answers: tuple[Answer, ...]) -> dict[str, Scores]:
    return score_questions(answers, _questions(settings, task), seed=settings.seed)


def _figures(settings: HintBenchSettings, cell: HintCell, answers: tuple[Answer, ...]) -> HintFigures:
    figures = hint_figures(answers, _questions(settings, cell.task), seed=settings.seed)
    assert figures is not None, cell
    return replace(figures, num_hints=cell.num_hints, num_answers=cell.num_answers)


def _folder(settings: HintBenchSettings, cell: HintCell, control: str) -> Path:
    return Path(settings.folder) / f"{cell.folder}-{control}"


def _is_finished(settings: HintBenchSettings, cell: HintCell, control: str) -> bool:
    return (_folder(settings, cell, control) / SUMMARY_NAME).exists()


def _run(
    settings: HintBenchSettings,
    cell: HintCell,
    control: MemoryName,
    model: ModelObject,
    tokenizer: TokenizerObject,
) -> None:
    fields: RunFields = {
        "task": cell.task,
        "method": "text" if cell.method == "text" else "latent",
        "memory": control,
        "abstractions": cell.num_hints,
        "samples": cell.num_answers,
        "limit": settings.limit,
        "batch_size": settings.batch_size,
        "temperature": settings.temperature,
        "top_p": 1.0,
        "max_new_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        "runtime": "local",
    }
    if cell.source != BARE:
        fields["hints"] = "oracle" if cell.source == "oracle" else "own"
        if cell.method == "latent":
            fields["latent_steps"] = settings.latent_steps
    with LatentMAS(model, tokenizer=tokenizer, topology="abstraction", **fields) as mas:
        mas.evaluate(output=str(_folder(settings, cell, control)), resume=True)
