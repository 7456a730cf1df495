"""Loads questions from a built-in task, a published benchmark, or a file with one JSON object per line."""

import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from latentmas_ray.errors import TaskError
from latentmas_ray.paths import expand_home
from latentmas_ray.tasks.chain import chain_questions
from latentmas_ray.tasks.facts.questions import NUM_QUESTIONS, facts_questions
from latentmas_ray.tasks.hub import hub_records
from latentmas_ray.tasks.inference import Inference
from latentmas_ray.tasks.notes import notes_questions
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.record import Draft, check_record
from latentmas_ray.tasks.registry import BENCHMARKS, find_benchmark
from latentmas_ray.tasks.remarks import remarks

GENERATED_TASKS: dict[str, Callable[[int], list[Question]]] = {
    "notes": notes_questions,
    "chain": chain_questions,
    "facts": facts_questions,
}
BUILTIN_TASKS = ("sample", *GENERATED_TASKS)
NUM_GENERATED = {"notes": 1000, "chain": 1000, "facts": NUM_QUESTIONS}

_SUFFIXES = (".jsonl", ".jsonl.gz")
_LOG = logging.getLogger(__name__)
_FILE_FORM = "FILE.jsonl or FILE.jsonl.gz with one JSON object a line: id, question, gold"


@dataclass(frozen=True, kw_only=True)
class LoadedTask:
    """The questions of a task, and how its records were understood."""

    questions: tuple[Question, ...]
    notes: tuple[str, ...] = ()  # what was left out, or differs from the rest
    num_records: int
    drafts: tuple[Draft, ...] = ()  # of the questions, for those that were read from records
    gold_source: str = ""  # the fields of golds that mean an option, and how they count


def load_questions(task: str, limit: int | None = None) -> list[Question]:
    """Return the first `limit` questions of a built-in task, a published benchmark, or a FILE.jsonl or FILE.jsonl.gz.

    Built-in tasks: `sample`, and the generated `notes` and `chain` with 1,000 questions each and `facts` with 5,000,
    always the same.
    Benchmarks (`BENCHMARKS`) are downloaded from the hub.

    The kind of a record's answer is its `kind`, or that of its `task`, or choice if it has options in a field of their
    own (see `choices/`). For other records the golds of all such records in the file decide: all numbers, all single
    letters, or text; a gold that is neither among many that are is text. Reading stops after `limit` questions unless
    later golds are needed. A repeated record counts once. A different question with an id that is in use gets `ID#2`,
    and so on. Records of other benchmarks may have no ids: these are then their numbers. Whatever is left out or
    differs is logged.

    Raises TaskError, its field `task` for an unknown name or an unreadable file, and `FILE:LINE: KEY` for a bad record.
    """
    loaded = load_task(task, limit)
    for note in loaded.notes:
        _LOG.warning("%s", note)
    return list(loaded.questions)


def load_task(task: str, limit: int | None = None) -> LoadedTask:
    """Return the questions of a task and how they were understood. See `load_questions`; nothing is logged."""
    if limit is not None and limit < 1:
        raise TaskError("limit", limit, "it must be at least 1")
    if task in GENERATED_TASKS:
        questions = GENERATED_TASKS[task](min(limit or NUM_GENERATED[task], NUM_GENERATED[task]))
        return LoadedTask(questions=tuple(questions), num_records=len(questions))
    if (benchmark := find_benchmark(task)) is not None:
        records = hub_records(benchmark, limit)
        places = ((f"{benchmark.name}:{number}", record) for number, record in enumerate(records, start=1))
        return _loaded(benchmark.name, places, limit)
    with _opened(task) as (stream, name):
        places = ((place, _parse(line, place)) for place, line in _lines(stream, name, task))
        loaded = _loaded(name, places, limit)
    if not loaded.questions:
        raise TaskError("task", task, "the file holds no question")
    return loaded


def _loaded(name: str, places: Iterable[tuple[str, Mapping[str, Any]]], limit: int | None) -> LoadedTask:
    """Return the questions of records, each given with its place in the file `name`."""
    drafts: dict[str, Draft] = {}
    inference = Inference(name)
    repeated: list[str] = []
    renamed: list[str] = []
    undecided = False
    num_records = 0
    first_has_id: bool | None = None
    for place, record in places:
        num_records += 1
        default = None if first_has_id else str(num_records)
        draft = check_record(record, where=f"{place}: ", default_id=default, needs_id=True)
        if first_has_id is None:
            first_has_id = bool(draft.id_key)
        elif draft.id_key and not first_has_id:
            raise TaskError(
                f"{place}: {draft.id_key}", draft.id, "the records before it have no id; give all one, or none"
            )
        same_id = list(_with_id(drafts, draft.id))
        if any(_comparable(other) == _comparable(draft) for other in same_id):
            repeated.append(draft.id)
            continue
        if same_id:
            draft = replace(draft, id=f"{draft.id}#{len(same_id) + 1}")
            renamed.append(draft.id)
        inference.add(draft)
        if limit is None or len(drafts) < limit:
            drafts[draft.id] = draft
            undecided = undecided or draft.kind is None or draft.options is not None
        if len(drafts) == limit and not undecided:
            break
    inference.decide()
    questions = [inference.question(draft) for draft in drafts.values()]
    return LoadedTask(
        questions=tuple(questions),
        notes=(*_notes(name, repeated, renamed), *inference.notes, *remarks(name, list(drafts.values()), questions)),
        num_records=num_records,
        drafts=tuple(drafts.values()),
        gold_source=inference.golds.source,
    )


def _comparable(draft: Draft) -> tuple[str, str, Mapping[str, Any]]:
    """Return all but the id: two questions with the same words may differ in their choices, notes or tests."""
    others = {key: value for key, value in draft.record.items() if key not in ("id", draft.id_key, "question", "gold")}
    return draft.question, str(draft.record.get("gold")), others


def _with_id(drafts: Mapping[str, Draft], name: str) -> Iterator[Draft]:
    """Yield the questions that have the id `name` in the file, including those that were given a new id."""
    number = 1
    while (draft := drafts.get(name if number == 1 else f"{name}#{number}")) is not None:
        yield draft
        number += 1


def _notes(name: str, repeated: Sequence[str], renamed: Sequence[str]) -> list[str]:
    """Return one line about repeated records and ids, if there are any."""
    parts = []
    if repeated:
        parts.append(f"{len(repeated)} repeated records are ignored (the first: {repeated[0]})")
    if renamed:
        parts.append(f"{len(renamed)} questions have the id of another one and get a new id (the first: {renamed[0]})")
    return [f"{name}: {'; '.join(parts)}"] if parts else []


@contextmanager
def _opened(task: str) -> Iterator[tuple[Iterable[bytes], str]]:
    """Open a task's file. Yields its lines as bytes, decompressed, and its name for messages."""
    if task in BUILTIN_TASKS:
        with files("latentmas_ray.tasks").joinpath(f"{task}.jsonl").open("rb") as stream:
            yield stream, f"{task}.jsonl"
        return
    try:
        path = _checked_path(task)
        with gzip.open(path) if task.lower().endswith(".gz") else path.open("rb") as lines:
            yield lines, path.name
    except OSError as error:
        raise TaskError("task", task, f"the file cannot be read: {error.strerror or error}") from error


def check_task(task: str) -> None:
    """Raises TaskError for an unknown task, and for a file that is not there. Reads nothing, and does not query the
    hub."""
    if task in BUILTIN_TASKS or find_benchmark(task) is not None:
        return
    try:
        _checked_path(task)
    except OSError as error:
        raise TaskError("task", task, f"the file cannot be read: {error.strerror or error}") from error


def _checked_path(task: str) -> Path:
    """Return the path of a task's file. Raises TaskError, OSError."""
    path = Path(expand_home("task", task, TaskError))
    if path.is_dir():
        raise TaskError("task", task, f"it is a folder; it must be a file of questions: {_FILE_FORM}")
    if not task.lower().endswith(_SUFFIXES):
        _refuse_name(task, is_file=path.exists())
    if not path.is_file():
        is_other = path.exists()
        raise TaskError("task", task, "it must be a regular file" if is_other else "there is no such file")
    return path


def _refuse_name(task: str, *, is_file: bool) -> NoReturn:
    if names := [one.name for one in BENCHMARKS if one.hub_id.lower() == task.lower()]:
        plural = "tasks" if len(names) > 1 else "task"
        raise TaskError("task", task, f"it is the dataset of the {plural} {' and '.join(names)}; give a task's name")
    if is_file or "/" in task or Path(task).suffix in (".json", ".csv", ".txt", ".gz", ".parquet"):
        raise TaskError("task", task, f"a file of questions must be named {_FILE_FORM}")
    known = ", ".join((*BUILTIN_TASKS, *(benchmark.name for benchmark in BENCHMARKS)))
    raise TaskError("task", task, f"unknown task; known are {known}; or give a file of questions: {_FILE_FORM}")


def _lines(stream: Iterable[bytes], name: str, task: str) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not blank, each with its place `FILE:LINE`."""
    number = 0
    try:
        for number, line in enumerate(stream, start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if text:
                yield f"{name}:{number}", text
    except UnicodeDecodeError as error:
        raise TaskError(f"{name}:{number}", error.object, "the line must be UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TaskError("task", task, f"the gzip file is damaged or truncated after line {number}: {error}") from error


def _parse(line: str, where: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise TaskError(where, constant, "JSON has no such number; leave the key out")

    try:
        value = json.loads(line, parse_constant=refuse)
    except RecursionError:
        raise TaskError(where, line, "the line is nested too deeply") from None
    except ValueError as error:
        if isinstance(error, TaskError):  # itself a ValueError, raised by `refuse`
            raise
        raise TaskError(where, line, f"the line must be one JSON object ({error})") from None
    if not isinstance(value, dict):
        raise TaskError(where, line, "the line must be one JSON object, with id and question")
    return value
