"""The journal of a run in its output folder: configuration, answers as they finish, failures, and the summary.

config.yaml      the run's configuration; a resumed run must have the same values in all fields that affect answers
topology.yaml    the topology as it was configured, unless it is a built-in one: so the run can be repeated
results.jsonl    one row per answer, appended and synced to disk as questions finish; sorted by question at the end
traces.jsonl     one row per traced question; embeddings.json has the plane of the thoughts
timeline.jsonl   one row per turn, and per replica or node that came or went, of all starts: see `runs.timeline`
failures.jsonl   one row per failed question, of the latest start only; absent if there is none
summary.json     the summary, written when the run has finished
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import yaml

from latentmas_ray.config import PATH_FIELDS, RunConfig, stored_fields
from latentmas_ray.errors import JournalError, RunError, hide_password
from latentmas_ray.runs.folder import (
    FolderLock,
    append_durably,
    check_regular,
    encode_row,
    make_folder,
    read_file,
    read_json,
    read_yaml,
    remove_temporary_files,
    write_atomically,
)
from latentmas_ray.runs.results import Answer, Failure, Summary
from latentmas_ray.runs.rows import read_rows
from latentmas_ray.runs.timeline import TIMELINE_NAME, TimelineRecorder
from latentmas_ray.runs.traces import EMBEDDINGS_NAME, TRACES_NAME, TraceWriter
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import parse_topology

CONFIG_NAME = "config.yaml"
RESULTS_NAME = "results.jsonl"
FAILURES_NAME = "failures.jsonl"
SUMMARY_NAME = "summary.json"
TOPOLOGY_NAME = "topology.yaml"
STARTED_IN = "started_in"  # a key of config.yaml: the folder below which relative names of files are
_NAMES = (
    CONFIG_NAME,
    TOPOLOGY_NAME,
    RESULTS_NAME,
    TRACES_NAME,
    EMBEDDINGS_NAME,
    TIMELINE_NAME,
    FAILURES_NAME,
    SUMMARY_NAME,
)


class Journal:
    """An output folder, open for one run. It is locked until it is closed or the process ends."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        questions: Sequence[Question],
        pinned: Mapping[str, str],
        topology: str | None = None,
    ):
        self.folder = folder
        self._config = config
        self._questions = {question.id: question for question in questions}
        self._pinned = dict(pinned)
        self._topology = topology
        self._answers: dict[str, Answer] = {}  # in the order of the file
        self._digests: dict[str, bytes] = {}  # of their rows, in the same order
        self._failures: list[Failure] = []
        self._traces = TraceWriter(folder)
        self.timeline = TimelineRecorder(folder)  # an observer of the run
        self._has_written = False
        make_folder(folder)
        self._lock = FolderLock(folder)
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
        topology: str | None = None,
    ) -> "Journal":
        """Start a journal in `folder`, or continue the existing one if `config.resume` is set.

        `pinned` are further facts that a resumed run must share, such as a digest of the topology's text. `topology` is
        the text of a topology that is not a built-in one, for a copy in the folder.
        Raises JournalError, and changes nothing, if the folder is a file, is not writable, is in use, holds results and
        the run does not resume, or holds damaged results or those of a different run.
        """
        return cls(Path(folder), config, questions, pinned or {}, topology)

    @property
    def answers(self) -> list[Answer]:
        """All answers so far, in the order of the questions."""
        return [self._answers[name] for name in self._questions if name in self._answers]

    @property
    def failures(self) -> list[Failure]:
        """The failures since this start."""
        return list(self._failures)

    def pin(self, name: str, value: str, *, before: str) -> None:
        """Note a fact that a resumed run must share, and that is known only when the runtime has started. `before` is
        that of runs which noted none.

        Raises JournalError if the answers that are there have another one, RunError if it cannot be written.
        """
        path = self.folder / CONFIG_NAME
        try:
            stored = read_yaml(read_file(path))
            pinned = dict(stored.get("pinned") or {})
            was = pinned.get(name, before)
            if was != value and not self.num_resumed:
                stored["pinned"] = {**pinned, name: value}
                write_atomically(path, yaml.safe_dump(stored, sort_keys=False, allow_unicode=True).encode())
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise RunError(f"something else has changed {path} during the run: {error}") from error
        if was != value and self.num_resumed:
            expected = f"the run in {self.folder} has {was!r}; resume with the same, or choose another folder"
            raise JournalError(name, value, expected)

    def note(self, fields: Mapping[str, Any]) -> None:
        """Write these fields of the configuration to config.yaml, which a search has chosen in this start, so that the
        file gives a run the same again. Raises RunError if it cannot be written."""
        path = self.folder / CONFIG_NAME
        try:
            stored = read_yaml(read_file(path))
            if any(stored.get(name) != value for name, value in fields.items()):
                stored.update(fields)
                write_atomically(path, yaml.safe_dump(stored, sort_keys=False, allow_unicode=True).encode())
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise RunError(f"something else has changed {path} during the run: {error}") from error

    def record(self, *results: Answer | Failure) -> None:
        """Write results to disk before returning. Answers that are already recorded are skipped.

        Raises RunError, and leaves the files unchanged, if they cannot be written, or if another run writes there too
        because something removed the lock.
        """
        self._lock.check()
        fresh = {result.id: result for result in results if isinstance(result, Answer)}
        answers = [answer for answer in fresh.values() if answer.id not in self._answers]
        failures = [result for result in results if isinstance(result, Failure)]
        try:
            if not self._has_written:
                self._drop_outdated()
            if answers:
                self._traces.write([answer.trace for answer in answers if answer.trace is not None])
                rows = [encode_row(answer.to_row()) for answer in answers]
                append_durably(self.folder / RESULTS_NAME, b"".join(rows))
                self._answers.update((answer.id, answer) for answer in answers)
                self._digests.update((answer.id, _digest(row)) for answer, row in zip(answers, rows, strict=True))
            if failures:
                rows = [encode_row(failure.to_row()) for failure in failures]
                append_durably(self.folder / FAILURES_NAME, b"".join(rows))
                self._failures += failures
        except OSError as error:
            raise RunError(f"results cannot be written to {self.folder}: {error.strerror or error}") from error
        except JournalError as error:  # something has put a pipe, say, in the place of a file
            raise RunError(f"results cannot be written to {self.folder}: {error}") from error

    def adopt(self, answers: Sequence[Answer]) -> None:
        """Record answers of an earlier start that are in no row yet. Raises like `record`."""
        if answers:
            self.record(*answers)
            self.num_resumed += len(answers)

    def replace(self, answers: Sequence[Answer]) -> None:
        """Write these rows in place of those of the same questions, which were decided before all votes were in; rows
        that do not change are left alone. Raises like `record`."""
        changed = {answer.id: answer for answer in answers if answer != self._answers.get(answer.id)}
        if not changed:
            return
        self._lock.check()
        self._check_rows()
        try:
            if not self._has_written:
                self._drop_outdated()
            self._answers.update(changed)
            rows = {name: encode_row(answer.to_row()) for name, answer in self._answers.items()}
            write_atomically(self.folder / RESULTS_NAME, b"".join(rows.values()))
            self._digests = {name: _digest(row) for name, row in rows.items()}
        except OSError as error:
            raise RunError(f"results cannot be written to {self.folder}: {error.strerror or error}") from error

    def finish(self, summary: Summary) -> Summary:
        """Complete the journal of a finished run: sort rows by question and write summary.json.

        Returns the content of summary.json: if this start had nothing to do, the existing summary is left as it is.
        Raises RunError if the files cannot be written, and if something else has changed the rows or the traces; rows
        that it removed are written again.
        """
        path = self.folder / SUMMARY_NAME
        self._lock.check()
        try:
            self._check_rows()
            self._sort_rows()
            self._traces.retain([answer.id for answer in self.answers])
            if self._traces.num_lost:
                lost = f"{self._traces.num_lost} traces are missing from {self.folder / TRACES_NAME}"
                raise RunError(f"something else has changed the files during the run: {lost}")
            if not self._has_written and (existing := _read_summary(path)) is not None:
                return existing
            write_atomically(path, json.dumps(summary.to_json(), indent=2).encode() + b"\n")
            return summary
        except OSError as error:
            raise RunError(f"the summary cannot be written to {path}: {error.strerror or error}") from error
        except JournalError as error:
            raise RunError(f"something else has changed the files during the run: {error}") from error

    def close(self) -> None:
        """Unlock the folder. Safe to call twice."""
        self.timeline.write()
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> None:
        path = self.folder / RESULTS_NAME
        try:
            check_regular(self.folder / name for name in _NAMES)
            remove_temporary_files(self.folder)
            path.open("ab").close()  # fails early if the file is not writable
            if path.stat().st_size:
                self._resume(path)
            else:
                self._drop_outdated()
                self._traces.remove()
                self.timeline.remove()
                self._copy_topology()
                write_atomically(self.folder / CONFIG_NAME, self._config_text().encode())
        except OSError as error:
            expected = f"its files cannot be read and written: {error.strerror or error}"
            raise JournalError("output", str(self.folder), expected) from error

    def _copy_topology(self) -> None:
        path = self.folder / TOPOLOGY_NAME
        if self._topology is None:
            path.unlink(missing_ok=True)
        else:
            write_atomically(path, self._topology.encode())

    def _resume(self, path: Path) -> None:
        if not self._config.resume:
            expected = f"{RESULTS_NAME} is already there; add --resume to continue it, or choose another folder"
            raise JournalError("output", str(self.folder), expected)
        self._check_identity()
        self._answers, content = read_rows(path, self._questions)
        if path.stat().st_size != len(content):
            write_atomically(path, content)
        rows = (row + b"\n" for row in content.split(b"\n"))
        self._digests = {name: _digest(row) for name, row in zip(self._answers, rows, strict=False)}
        self._traces.retain([answer.id for answer in self.answers])

    def _config_text(self) -> str:
        values = self._config.model_dump() | ({"pinned": self._pinned} if self._pinned else {})
        if self._config.output is not None:
            values["output"] = hide_password(self._config.output)
        names = [*(getattr(self._config, name) for name in PATH_FIELDS), *self._config.models.values()]
        if any(map(_is_relative_file, names)):
            values[STARTED_IN] = str(Path.cwd())
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def _check_identity(self) -> None:
        path = self.folder / CONFIG_NAME
        try:
            stored: Any = read_yaml(read_file(path))
        except FileNotFoundError:
            expected = (
                f"{CONFIG_NAME} is missing, so it is unknown which run made {RESULTS_NAME}; choose another folder"
            )
            raise JournalError("output", str(self.folder), expected) from None
        except JournalError:
            raise
        except ValueError as error:
            raise JournalError(str(path), str(error), "it must be the YAML that the run wrote") from None
        if not isinstance(stored, dict):
            raise JournalError(str(path), stored, "it must hold the fields of a run's configuration")
        pinned = stored.get("pinned")
        was = stored_fields(stored) | (pinned if isinstance(pinned, dict) else {})
        for name, value in (self._config.identity() | self._pinned).items():
            if name == "latent_steps" and not self._thinks_by_config():
                continue  # its default has changed, and there it does nothing
            if name not in was or was[name] != value:
                stored_value = repr(was[name]) if name in was else "no such field"
                expected = (
                    f"the run in {self.folder} has {stored_value}; resume with the same, or choose another folder"
                )
                raise JournalError(name, value, expected)
        if isinstance(output := stored.get("output"), str) and hide_password(output) != output:
            # An earlier version wrote it with its password.
            stored["output"] = hide_password(output)
            write_atomically(path, yaml.safe_dump(stored, sort_keys=False, allow_unicode=True).encode())

    def _thinks_by_config(self) -> bool:
        """Whether an agent thinks as many latent steps as the configuration says."""
        if not self._config.has_thoughts or self._topology is None:
            return self._config.has_thoughts
        agents = parse_topology(self._topology, TOPOLOGY_NAME).agents
        return any(agent.thinks == "latent" and agent.latent_steps is None for agent in agents)

    def _drop_outdated(self) -> None:
        """Remove the files of an earlier start that this start writes again."""
        for name in (SUMMARY_NAME, FAILURES_NAME):
            (self.folder / name).unlink(missing_ok=True)
        self._has_written = True

    def _check_rows(self) -> None:
        """Raise RunError unless the file has exactly the rows of this run. Rows that are gone are written again, if
        nothing else has written there. Raises OSError."""
        path = self.folder / RESULTS_NAME
        try:
            content = read_file(path)
        except FileNotFoundError:
            content = b""
        rows = [row + b"\n" for row in content.split(b"\n")[:-1]]
        found = Counter(map(_digest, rows))
        gone = [name for name, digest in self._digests.items() if digest not in found]
        num_foreign = sum((found - Counter(self._digests.values())).values())
        if not gone and not num_foreign:
            return
        what = [f"{len(gone)} of {len(self._digests)} rows are missing"] if gone else []
        what += [f"{num_foreign} rows are not of this run"] if num_foreign else []
        if not num_foreign:
            again = b"".join(encode_row(self._answers[name].to_row()) for name in gone)
            write_atomically(path, b"".join(rows) + again)
            what.append("they are written again")
        raise RunError(f"{path}: something else changed it during the run: {', '.join(what)}")

    def _sort_rows(self) -> None:
        ordered = [answer.id for answer in self.answers]
        if ordered == list(self._answers):
            return
        path = self.folder / RESULTS_NAME
        rows = {_digest(row + b"\n"): row + b"\n" for row in read_file(path).split(b"\n")}
        write_atomically(path, b"".join(rows[self._digests[name]] for name in ordered))
        self._answers = {name: self._answers[name] for name in ordered}


def _is_relative_file(name: str | None) -> bool:
    try:
        return name is not None and not Path(name).is_absolute() and Path(name).exists()
    except OSError:  # too long for a file name
        return False


def _digest(row: bytes) -> bytes:
    return blake2b(row, digest_size=16).digest()


def _read_summary(path: Path) -> Summary | None:
    """Return the existing summary; None if there is no readable one."""
    try:
        return Summary.from_json(read_json(read_file(path), allows_nan=True))
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
