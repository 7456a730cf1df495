"""The journal of a run in its output folder: configuration, answers as they finish, failures, and the summary.

config.yaml      the run's configuration; a resumed run must have the same values in all fields that affect answers
results.jsonl    one row per answer, appended and synced to disk as questions finish; sorted by question at the end
traces.jsonl     one row per traced question; embeddings.json has the plane of the thoughts
failures.jsonl   one row per failed question, of the latest start only; absent if there is none
summary.json     the summary, written when the run has finished
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import yaml

from latentmas_ray.config import RunConfig, stored_fields
from latentmas_ray.errors import JournalError, RunError
from latentmas_ray.runs.folder import append_durably, encode_row, lock_folder, make_folder, write_atomically
from latentmas_ray.runs.results import Answer, Failure, Summary
from latentmas_ray.runs.rows import read_rows
from latentmas_ray.runs.traces import TraceWriter
from latentmas_ray.tasks.question import Question

CONFIG_NAME = "config.yaml"
RESULTS_NAME = "results.jsonl"
FAILURES_NAME = "failures.jsonl"
SUMMARY_NAME = "summary.json"


class Journal:
    """An output folder, open for one run. It is locked until it is closed or the process ends."""

    def __init__(self, folder: Path, config: RunConfig, questions: Sequence[Question], pinned: Mapping[str, str]):
        self._folder = folder
        self._config = config
        self._questions = {question.id: question for question in questions}
        self._pinned = dict(pinned)
        self._answers: dict[str, Answer] = {}  # in the order of the file
        self._failures: list[Failure] = []
        self._traces = TraceWriter(folder)
        self._has_written = False
        make_folder(folder)
        self._lock = lock_folder(folder)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        self.num_resumed = len(self._answers)  # answers from before this start

    @classmethod
    def open(
        cls,
        folder: str | Path,
        config: RunConfig,
        questions: Sequence[Question],
        *,
        pinned: Mapping[str, str] | None = None,
    ) -> "Journal":
        """Start a journal in `folder`, or continue the existing one if `config.resume` is set.

        `pinned` are further facts that a resumed run must share, such as a digest of the topology's text.
        Raises JournalError, and changes nothing, if the folder is a file, is not writable, is in use, holds results and
        the run does not resume, or holds damaged results or those of a different run.
        """
        return cls(Path(folder), config, questions, pinned or {})

    @property
    def answers(self) -> list[Answer]:
        """All answers so far, in the order of the questions."""
        return [self._answers[name] for name in self._questions if name in self._answers]

    @property
    def failures(self) -> list[Failure]:
        """The failures since this start."""
        return list(self._failures)

    def record(self, *results: Answer | Failure) -> None:
        """Write results to disk before returning. Answers that are already recorded are skipped.

        Raises RunError, and leaves the files unchanged, if they cannot be written.
        """
        fresh = {result.id: result for result in results if isinstance(result, Answer)}
        answers = [answer for answer in fresh.values() if answer.id not in self._answers]
        failures = [result for result in results if isinstance(result, Failure)]
        try:
            if not self._has_written:
                self._drop_outdated()
            if answers:
                self._traces.write([answer.trace for answer in answers if answer.trace is not None])
                rows = b"".join(encode_row(answer.to_row()) for answer in answers)
                append_durably(self._folder / RESULTS_NAME, rows)
                self._answers.update((answer.id, answer) for answer in answers)
            if failures:
                rows = b"".join(encode_row(asdict(failure)) for failure in failures)
                append_durably(self._folder / FAILURES_NAME, rows)
                self._failures += failures
        except OSError as error:
            raise RunError(f"results cannot be written to {self._folder}: {error.strerror or error}") from error

    def finish(self, summary: Summary) -> Summary:
        """Complete the journal of a finished run: sort rows by question and write summary.json.

        Returns the content of summary.json: if this start had nothing to do, the existing summary is left as it is.
        Raises RunError if the files cannot be written.
        """
        path = self._folder / SUMMARY_NAME
        try:
            self._sort_rows()
            self._traces.retain([answer.id for answer in self.answers])
            if not self._has_written and (existing := _read_summary(path)) is not None:
                return existing
            write_atomically(path, json.dumps(summary.to_json(), indent=2).encode() + b"\n")
            return summary
        except OSError as error:
            raise RunError(f"the summary cannot be written to {path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Unlock the folder. Safe to call twice."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        path = self._folder / RESULTS_NAME
        try:
            path.open("ab").close()  # fails early if the file is not writable
            if path.stat().st_size:
                self._resume(path)
            else:
                self._drop_outdated()
                self._traces.remove()
                write_atomically(self._folder / CONFIG_NAME, self._config_text().encode())
        except OSError as error:
            expected = f"its files cannot be read and written: {error.strerror or error}"
            raise JournalError("output", str(self._folder), expected) from error

    def _resume(self, path: Path) -> None:
        if not self._config.resume:
            expected = f"{RESULTS_NAME} is already there; add --resume to continue it, or choose another folder"
            raise JournalError("output", str(self._folder), expected)
        self._check_identity()
        self._answers, content = read_rows(path, self._questions)
        if path.stat().st_size != len(content):
            write_atomically(path, content)
        self._traces.retain([answer.id for answer in self.answers])

    def _config_text(self) -> str:
        values = self._config.model_dump() | ({"pinned": self._pinned} if self._pinned else {})
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def _check_identity(self) -> None:
        path = self._folder / CONFIG_NAME
        try:
            stored: Any = yaml.safe_load(path.read_bytes())
        except FileNotFoundError:
            expected = (
                f"{CONFIG_NAME} is missing, so it is unknown which run made {RESULTS_NAME}; choose another folder"
            )
            raise JournalError("output", str(self._folder), expected) from None
        except yaml.YAMLError as error:
            raise JournalError(str(path), str(error), "it must be the YAML that the run wrote") from None
        if not isinstance(stored, dict):
            raise JournalError(str(path), stored, "it must hold the fields of a run's configuration")
        pinned = stored.get("pinned")
        was = stored_fields(stored) | (pinned if isinstance(pinned, dict) else {})
        for name, value in (self._config.identity() | self._pinned).items():
            if name not in was or was[name] != value:
                stored_value = repr(was[name]) if name in was else "no such field"
                expected = (
                    f"the run in {self._folder} has {stored_value}; resume with the same, or choose another folder"
                )
                raise JournalError(name, value, expected)

    def _drop_outdated(self) -> None:
        """Remove the files of an earlier start that this start writes again."""
        for name in (SUMMARY_NAME, FAILURES_NAME):
            (self._folder / name).unlink(missing_ok=True)
        self._has_written = True

    def _sort_rows(self) -> None:
        ordered = [answer.id for answer in self.answers]
        if ordered == list(self._answers):
            return
        path = self._folder / RESULTS_NAME
        lines = dict(zip(self._answers, path.read_bytes().split(b"\n"), strict=False))
        write_atomically(path, b"".join(lines[name] + b"\n" for name in ordered))
        self._answers = {name: self._answers[name] for name in ordered}


def _read_summary(path: Path) -> Summary | None:
    """Return the existing summary; None if there is no readable one."""
    try:
        return Summary.from_json(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
