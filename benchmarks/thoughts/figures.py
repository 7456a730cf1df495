"""The figures of all cells, read back from their folders."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.shared_memory.team import read_answers, read_own_numbers
from benchmarks.thoughts.cells import ThoughtBenchSettings, ThoughtCell, answers_file, convergence_file, plan_cells
from latentmas_ray import load_run
from latentmas_ray.stats import PairedDifference, accuracy_interval, compare_paired

Scores = Mapping[str, float]  # by question


@dataclass(frozen=True, kw_only=True)
class CellFigures:
    """One rule and number of steps; accuracies are by memory control."""

    rule: str
    steps: int
    accuracy: Mapping[str, tuple[float, tuple[float, float]]]  # with its 95 % interval
    gains: Mapping[str, PairedDifference]  # matched − control, by control
    over_no_thoughts: PairedDifference | None  # matched − matched without steps
    thoughts_alone: PairedDifference | None  # latent-only − none
    num_questions: int
    num_own: int | None  # matched answers with numbers of their own question's notes; None where the task has none


def read_figures(settings: ThoughtBenchSettings) -> list[CellFigures]:
    """The figures of all rules and numbers of steps, without steps first."""
    cells = list(plan_cells(settings))
    blocks = complete_blocks(settings)
    scores = {cell: _scores(settings, cell, blocks) for cell in cells}
    plain = next((scores[cell] for cell in cells if cell.memory == "matched" and not cell.steps), None)
    return [
        _figures(cell, scores, plain if cell.steps else None, _num_own(settings, cell, blocks))
        for cell in cells
        if cell.memory == "matched"
    ]


def complete_blocks(settings: ThoughtBenchSettings) -> list[range]:
    """The blocks of questions that every cell has answered."""
    cells = list(plan_cells(settings))
    return [
        block
        for block in settings.blocks
        if all(read_answers(answers_file(settings, cell, block), settings.identity) is not None for cell in cells)
    ]


def read_convergence(settings: ThoughtBenchSettings) -> dict[str, list[tuple[float, float, float]]]:
    """Mean, 10th and 90th percentile of the cosine to the thought before, by rule and step from 1 on."""
    files = {rule: convergence_file(settings, rule) for rule in settings.rules}
    return {rule: json.loads(path.read_text()) for rule, path in files.items() if path.exists()}


def _scores(settings: ThoughtBenchSettings, cell: ThoughtCell, blocks: Sequence[range]) -> Scores:
    if not blocks:  # agents that read one another: each cell is a run
        run = load_run(str(cell.folder(settings)))
        return {answer.id: float(bool(answer.correct)) for answer in run.answers}
    files = (answers_file(settings, cell, block) for block in blocks)
    return {name: score for path in files for name, score in (read_answers(path, settings.identity) or {}).items()}


def _num_own(settings: ThoughtBenchSettings, cell: ThoughtCell, blocks: Sequence[range]) -> int | None:
    found = [read_own_numbers(answers_file(settings, cell, block), settings.identity) for block in blocks]
    return sum(sum(own.values()) for own in found) if any(found) else None


def _figures(
    cell: ThoughtCell, scores: Mapping[ThoughtCell, Scores], plain: Scores | None, num_own: int | None
) -> CellFigures:
    same = {
        other.memory: found
        for other, found in scores.items()
        if other.memory == "none" or (other.rule, other.steps) == (cell.rule, cell.steps)
    }
    own = same["matched"]
    return CellFigures(
        rule=cell.rule,
        steps=cell.steps,
        accuracy={
            memory: (sum(found.values()) / len(found), accuracy_interval(list(found.values())))
            for memory, found in same.items()
            if found
        },
        gains={memory: _paired(found, own) for memory, found in same.items() if memory != "matched"},
        over_no_thoughts=None if plain is None else _paired(plain, own),
        thoughts_alone=_paired(same["none"], same["latent-only"]) if {"none", "latent-only"} <= same.keys() else None,
        num_questions=len(own),
        num_own=num_own,
    )


def _paired(base: Scores, other: Scores) -> PairedDifference:
    ids = [name for name in base if name in other]
    return compare_paired([base[name] for name in ids], [other[name] for name in ids])
