"""Runs the cells, each an output folder that is continued, and reads their figures back."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.keep.settings import MEMORIES, NOTES, KeepBenchSettings, KeepCell
from latentmas_ray import LatentMAS, Topology
from latentmas_ray.config import make_config
from latentmas_ray.report.runs import FinishedRun, load_run
from latentmas_ray.stats import PairedDifference, accuracy_interval, compare_paired
from latentmas_ray.tasks.notes import notes_questions
from latentmas_ray.topology import builtin_for, load_topology


@dataclass(frozen=True, kw_only=True)
class KeepFigures:
    """The figures of one cell. Differences are paired, with the middle 95 % of bootstrap samples of the questions."""

    cell: KeepCell
    num_questions: int
    sent_bytes: float  # per question, as sent
    accuracy: float
    interval: tuple[float, float]
    lost: PairedDifference | None  # to keep 1 without codec; None if that was not run
    pairing_gain: PairedDifference  # matched - deranged


def measure(settings: KeepBenchSettings, report: Callable[[str], None]) -> list[KeepFigures]:
    """Run what is not there yet. Raises InputError and RunError kinds."""
    settings.output.mkdir(parents=True, exist_ok=True)
    task, topology = _task_of(settings), load_topology(builtin_for(_name_of(settings), settings.topology))
    cells = list(settings.cells())
    for number, cell in enumerate(cells, start=1):
        for memory in MEMORIES:
            report(f"{number} of {len(cells)}: {cell.name}, {memory}")
            _run(settings, cell, memory, task, topology)
    return list(read_figures(settings))


def read_figures(settings: KeepBenchSettings) -> Iterator[KeepFigures]:
    """Yield the figures of the cells in the output folder."""
    exact = _scores(load_run(_folder(settings, full, "matched"))) if (full := _full_cell(settings)) else None
    for cell in settings.cells():
        matched, deranged = (load_run(_folder(settings, cell, memory)) for memory in MEMORIES)
        scores = _scores(matched)
        sent = [sum(one.num_bytes for one in answer.transfers) for answer in matched.answers]
        yield KeepFigures(
            cell=cell,
            num_questions=len(scores),
            sent_bytes=sum(sent) / len(sent),
            accuracy=sum(scores.values()) / len(scores),
            interval=accuracy_interval(list(scores.values())),
            lost=None if exact is None else _paired(exact, scores),
            pairing_gain=_paired(_scores(deranged), scores),
        )


def _run(settings: KeepBenchSettings, cell: KeepCell, memory: str, task: Path, topology: Topology) -> None:
    folder = _folder(settings, cell, memory)
    fields = {
        "model": settings.model,
        "dtype": settings.dtype,
        "task": str(task),
        "limit": settings.questions,
        "memory": memory,
        "keep": cell.keep,
        "codec": cell.codec,
        "latent_steps": settings.latent_steps,
        "batch_size": settings.batch_size,
        "max_new_tokens": settings.max_new_tokens,
        "temperature": 0.0,
        "runtime": "local",
        "output": str(folder),
        "resume": folder.exists(),
    }
    if cell.keep < 1:
        fields |= {"keep_by": cell.by}
        fields |= {} if cell.by == "random" else {"keep_layers": settings.layers}
    with LatentMAS(make_config(fields), topology=topology) as system:
        system.evaluate()


def _task_of(settings: KeepBenchSettings) -> Path:
    """Return the file of questions; that of the notes is written."""
    if settings.task != NOTES:
        return Path(settings.task)
    path = settings.output / "questions.jsonl"
    rows = (json.dumps(question.record) for question in notes_questions(settings.questions, settings.seed))
    path.write_text("".join(f"{row}\n" for row in rows))
    return path


def _name_of(settings: KeepBenchSettings) -> str:
    return NOTES if settings.task == NOTES else ""


def _full_cell(settings: KeepBenchSettings) -> KeepCell | None:
    return next((cell for cell in settings.cells() if cell.keep == 1 and cell.codec == "none"), None)


def _folder(settings: KeepBenchSettings, cell: KeepCell, memory: str) -> Path:
    return settings.output / f"{cell.name}-{memory}"


def _scores(run: FinishedRun) -> dict[str, float]:
    return {answer.id: float(answer.correct) for answer in run.answers if answer.correct is not None}


def _paired(base: dict[str, float], other: dict[str, float]) -> PairedDifference:
    common = [name for name in base if name in other]
    return compare_paired([base[name] for name in common], [other[name] for name in common])
