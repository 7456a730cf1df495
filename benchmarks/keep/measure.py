"""Runs the cells, each an output folder that is continued, and reads their figures back."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.keep.settings import MEMORIES, NOTES, KeepBenchSettings, KeepCell
from benchmarks.keep.shared_runs import answers_file, run_shared
from benchmarks.shared_memory.team import read_answers, shares_memory, team_topology
from latentmas_ray import LatentMAS
from latentmas_ray.config import RunConfig, make_config
from latentmas_ray.errors import ConfigError
from latentmas_ray.report.runs import load_run
from latentmas_ray.stats import PairedDifference, accuracy_interval, compare_paired
from latentmas_ray.tasks.notes import notes_questions
from latentmas_ray.topology import builtin_for


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
    config = _config(settings, _task_of(settings))
    topology = team_topology(config)
    if shares_memory(topology):
        run_shared(settings, config, report)
    elif settings.places:
        raise ConfigError("places", settings.places[0], "it needs latent agents that read no other agent")
    else:
        cells = list(settings.cells())
        for number, cell in enumerate(cells, start=1):
            for memory in MEMORIES:
                report(f"{number} of {len(cells)}: {cell.name}, {memory}")
                _run(settings, cell, memory, config)
    return list(read_figures(settings, list(settings.cells())))


def read_finished(settings: KeepBenchSettings) -> list[KeepFigures]:
    """The figures of the cells whose two runs are finished. Raises ConfigError if there is none."""
    cells = [cell for cell in settings.cells() if all(_is_finished(settings, cell, memory) for memory in MEMORIES)]
    if not cells:
        raise ConfigError("output", str(settings.output), "with --no-run it must have finished runs of these settings")
    return list(read_figures(settings, cells))


def read_figures(settings: KeepBenchSettings, cells: Sequence[KeepCell]) -> Iterator[KeepFigures]:
    """Yield the figures of these cells of the output folder."""
    full = next((cell for cell in cells if cell.keeps_all and cell.codec == "none"), None)
    exact = _scores(settings, full, "matched") if full else None
    for cell in cells:
        scores, deranged = (_scores(settings, cell, memory) for memory in MEMORIES)
        yield KeepFigures(
            cell=cell,
            num_questions=len(scores),
            sent_bytes=_sent_bytes(settings, cell),
            accuracy=sum(scores.values()) / len(scores),
            interval=accuracy_interval(list(scores.values())),
            lost=None if exact is None else _paired(exact, scores),
            pairing_gain=_paired(deranged, scores),
        )


def _config(settings: KeepBenchSettings, task: str) -> RunConfig:
    """The configuration of all cells."""
    return make_config(
        {
            "model": settings.model,
            "dtype": settings.dtype,
            "task": task,
            "topology": builtin_for(settings.task, settings.topology),  # the task of notes is a file
            "limit": settings.questions,
            "latent_steps": settings.latent_steps,
            "batch_size": settings.batch_size,
            "max_new_tokens": settings.max_new_tokens,
            "temperature": 0.0,
            "runtime": "local",
        }
    )


def _run(settings: KeepBenchSettings, cell: KeepCell, memory: str, config: RunConfig) -> None:
    folder = _folder(settings, cell, memory)
    changes: dict[str, object] = {"memory": memory, "codec": cell.codec, "output": str(folder)}
    choice = settings.choice(cell)
    if cell.by == "random":
        choice.pop("keep_layers", None)
    given = config.model_dump(include=config.model_fields_set)
    with LatentMAS(make_config({**given, **changes, **choice, "resume": folder.exists()})) as system:
        system.evaluate()


def _task_of(settings: KeepBenchSettings) -> str:
    """Return the name or the file of the questions; that of the notes is written, as they have a seed of their own."""
    if settings.task != NOTES:
        return settings.task
    path = settings.output / "questions.jsonl"
    rows = (json.dumps(question.record) for question in notes_questions(settings.questions, settings.seed))
    path.write_text("".join(f"{row}\n" for row in rows))
    return str(path)


def _folder(settings: KeepBenchSettings, cell: KeepCell, memory: str) -> Path:
    return settings.output / f"{cell.name}-{memory}"


def _is_finished(settings: KeepBenchSettings, cell: KeepCell, memory: str) -> bool:
    if read_answers(answers_file(settings, cell, memory), settings.identity) is not None:
        return True
    return (_folder(settings, cell, memory) / "summary.json").exists()


def _scores(settings: KeepBenchSettings, cell: KeepCell, memory: str) -> dict[str, float]:
    found = read_answers(answers_file(settings, cell, memory), settings.identity)
    if found is None:
        answers = load_run(_folder(settings, cell, memory)).answers
        found = {answer.id: float(answer.correct) for answer in answers if answer.correct is not None}
    return found


def _sent_bytes(settings: KeepBenchSettings, cell: KeepCell) -> float:
    """Bytes of KV that were sent, per question."""
    if (path := answers_file(settings, cell, "matched")).exists():
        sent: list[int] = json.loads(path.read_text())["sent_bytes"]
    else:
        answers = load_run(_folder(settings, cell, "matched")).answers
        sent = [sum(one.num_bytes for one in answer.transfers) for answer in answers]
    return sum(sent) / len(sent)


def _paired(base: dict[str, float], other: dict[str, float]) -> PairedDifference:
    common = [name for name in base if name in other]
    return compare_paired([base[name] for name in common], [other[name] for name in common])
