"""Reads the output folders of runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from latentmas_ray.config import RunConfig, is_url, stored_fields
from latentmas_ray.engine.diagnostics.trace import EmbeddingMap
from latentmas_ray.errors import JournalError
from latentmas_ray.paths import expand_home
from latentmas_ray.runs.controls.names import control_folders
from latentmas_ray.runs.folder import read_file, read_json, read_yaml
from latentmas_ray.runs.journal import CONFIG_NAME, FAILURES_NAME, RESULTS_NAME, SUMMARY_NAME
from latentmas_ray.runs.results import Answer, Failure, Summary
from latentmas_ray.runs.rows import decode_row
from latentmas_ray.runs.timeline import RunTimeline, read_timeline
from latentmas_ray.runs.traces import Trace, judge_memory, read_embeddings, read_traces
from latentmas_ray.seeds import seed_folders


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """The content of a run's output folder. The run may be unfinished."""

    folder: Path
    config: RunConfig
    answers: tuple[Answer, ...]
    failures: tuple[Failure, ...]
    summary: Summary | None  # None if the run is not finished
    traces: Mapping[str, Trace]
    embeddings: EmbeddingMap | None
    timeline: RunTimeline | None = None  # None if it recorded no times


def load_run(folder: str | Path) -> FinishedRun:
    """Read an output folder, without changing it. The run may still be writing to it.

    Raises JournalError if it is not a folder, has no results, or has a file that no run wrote.
    """
    folder = _existing(folder)
    for name in (CONFIG_NAME, RESULTS_NAME):
        if not (folder / name).exists():
            raise JournalError("run", str(folder), f"it has no {name}; give the output folder of a run")
    try:
        return FinishedRun(
            folder=folder,
            config=_read_config(folder / CONFIG_NAME),
            answers=read_answers(folder / RESULTS_NAME),
            failures=_read_failures(folder / FAILURES_NAME),
            summary=_read_summary(folder / SUMMARY_NAME),
            traces=judge_memory(read_traces(folder)),
            embeddings=read_embeddings(folder),
            timeline=read_timeline(folder),
        )
    except OSError as error:
        raise JournalError("run", str(folder), f"its files cannot be read: {error.strerror or error}") from error


def load_runs(folder: str | Path) -> list[FinishedRun]:
    """Read an output folder of one run, or of one run per seed, in the order of the seeds.

    Raises what `load_run` raises, and JournalError for seeds of different runs.
    """
    folder = _existing(folder)
    seeds = {} if (folder / CONFIG_NAME).exists() else seed_folders(folder)
    runs = [load_run(path) for path in seeds.values()] or [load_run(folder)]
    for run in runs[1:]:
        _check_same_but_seed(run, runs[0])
    return runs


def with_controls(folders: Iterable[str]) -> list[str]:
    """Return the folders, each that holds runs with several controls replaced by theirs, matched first."""
    found: list[str] = []
    for folder in folders:
        inner = {} if is_url(folder) else control_folders(Path(folder))
        found += [str(path) for path in inner.values()] or [folder]
    return found


def read_answers(path: Path) -> tuple[Answer, ...]:
    """Read the rows of a results file, ignoring a last line without a line end. Raises JournalError."""
    lines = read_file(path).split(b"\n")[:-1]
    answers: dict[str, Answer] = {}
    for number, line in enumerate(lines, start=1):
        answer = decode_row(line, f"{path}:{number}")
        if answer.id in answers:
            raise JournalError(f"{path}:{number}: id", answer.id, "it is repeated; remove one of the two lines")
        answers[answer.id] = answer
    return tuple(answers.values())


def _existing(given: str | Path) -> Path:
    if not str(given):  # not the folder that the command was started in
        raise JournalError("run", "", "it must be the output folder of a run")
    if is_url(str(given)):
        raise JournalError("run", str(given), "it must be a folder on this machine; copy the run's files to one")
    path = Path(expand_home("run", str(given), JournalError))
    try:
        is_folder = path.is_dir()
    except OSError as error:  # such as a name that is too long
        raise JournalError("run", str(given), f"it cannot be read: {error.strerror or error}") from error
    if not is_folder:
        raise JournalError("run", str(given), "there is no such folder; give the output folder of a run")
    return path


def _check_same_but_seed(run: FinishedRun, first: FinishedRun) -> None:
    was = first.config.identity()
    for field, value in run.config.identity().items():
        if field != "seed" and value != was[field]:
            expected = f"seed {first.config.seed} has {was[field]!r}; runs of several seeds must differ in nothing else"
            raise JournalError(f"{run.folder}: {field}", str(value), expected)


def _read_config(path: Path) -> RunConfig:
    content = read_file(path)
    try:
        values = stored_fields(dict(read_yaml(content)))
        if "task" not in values:  # any mapping would otherwise be accepted, with default values
            raise ValueError("no task")
        # Fields of other versions are ignored.
        return RunConfig.model_validate({name: values[name] for name in RunConfig.model_fields if name in values})
    except (ValueError, TypeError, RecursionError):
        raise JournalError(str(path), path.name, "it must be the YAML that the run wrote") from None


def _read_failures(path: Path) -> tuple[Failure, ...]:
    lines = read_file(path).split(b"\n")[:-1] if path.exists() else []
    try:
        failures = tuple(Failure(**read_json(line)) for line in lines)
        for one in failures:
            texts = (one.id, one.agent, one.error)
            if not (isinstance(one.too_long, bool) and all(isinstance(text, str) for text in texts)):
                raise TypeError("a field of a failure is of another type")
        return failures
    except (ValueError, TypeError):
        raise JournalError(str(path), path.name, "it must be what the run wrote; remove the file") from None


def _read_summary(path: Path) -> Summary | None:
    if not path.exists():
        return None
    content = read_file(path)
    try:
        return Summary.from_json(read_json(content, allows_nan=True))  # which refuses it where no run writes it
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise JournalError(str(path), path.name, "it must be what the run wrote; remove the file") from None
