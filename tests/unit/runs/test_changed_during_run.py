"""Something else cuts, deletes or replaces the files of a run while it writes, or puts links where it will write."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.config import RunConfig
from latentmas_ray.errors import JournalError, RunError
from latentmas_ray.runs.folder import append_durably, write_atomically
from latentmas_ray.runs.journal import Journal
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.summary import summarise
from latentmas_ray.scheduler.batch import plan_batches
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, make_driver, make_questions

QUESTIONS = make_questions(10)
CONFIG = RunConfig(batch_size=3)
Change = Callable[[Path], object]


@pytest.fixture
def results() -> list[Answer]:
    traced = frozenset(question.id for question in QUESTIONS[:4])
    driver = make_driver(FakeRuntime(), CHAIN, traced=traced)
    return [result for result in driver.run(plan_batches(QUESTIONS, 3)) if isinstance(result, Answer)]


def ids(folder: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (folder / "results.jsonl").read_text().splitlines()]


def finish(journal: Journal) -> None:
    journal.finish(summarise(journal.answers, journal.failures, config=CONFIG, seconds=1.0))


def disturbed(folder: Path, results: list[Answer], change: Change, *, after: int) -> None:
    """A whole run, in the middle of which `change` happens to its results file."""
    with Journal.open(folder, CONFIG, QUESTIONS) as journal:
        journal.record(*results[:after])
        change(folder / "results.jsonl")
        journal.record(*results[after:])
        finish(journal)


@contextmanager
def resumed(folder: Path) -> Iterator[Journal]:
    with Journal.open(folder, CONFIG.model_copy(update={"resume": True, "output": "x"}), QUESTIONS) as journal:
        yield journal


def cut(num_bytes: int) -> Change:
    return lambda path: os.truncate(path, max(0, path.stat().st_size - num_bytes))


def keep(num_rows: int) -> Change:
    return lambda path: path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:num_rows]))


def move_away(path: Path) -> None:
    path.rename(path.with_name("away"))


def drop_first(path: Path) -> None:
    path.write_bytes(path.read_bytes().partition(b"\n")[2])


LOST: dict[str, tuple[Change, int]] = {
    "deleted": (Path.unlink, 6),
    "moved away": (move_away, 6),
    "emptied": (lambda path: path.write_bytes(b""), 6),
    "cut in a row": (cut(5), 1),
    "cut after the brackets": (cut(1), 1),
    "cut between rows": (keep(3), 3),
    "cut in the first row": (lambda path: os.truncate(path, 7), 6),
    "the first row removed": (drop_first, 1),
    "all zero": (lambda path: path.write_bytes(b"\0" * 50), 6),
}


@pytest.mark.parametrize("case", LOST)
@pytest.mark.parametrize("after", [6, 10])
def test_rows_that_are_lost_are_told_and_written_again(
    case: str, after: int, results: list[Answer], tmp_path: Path
) -> None:
    change, num_lost = LOST[case]
    lost = num_lost if num_lost < 6 else after
    lost = after - 3 if case == "cut between rows" else lost
    with pytest.raises(RunError, match=rf"results\.jsonl: something else changed it .* {lost} of 10 rows") as caught:
        disturbed(tmp_path, results, change, after=after)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "summary.json").exists()
    with resumed(tmp_path) as journal:
        assert len(journal.answers) == 10
        finish(journal)
    assert ids(tmp_path) == [question.id for question in QUESTIONS]
    assert json.loads((tmp_path / "summary.json").read_text())["num_questions"] == 10


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"answer": "', b'"answer": "no ', 1))


def repeat(path: Path) -> None:
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[0])


FOREIGN: dict[str, tuple[Change, str]] = {
    "edited": (edit, "1 of 10 rows are missing, 1 rows are not of this run"),
    "a row of another run": (lambda path: append_durably(path, b'{"id": "x"}\n'), "1 rows are not of this run"),
    "a row twice": (repeat, "1 rows are not of this run"),
    "another file": (lambda path: path.write_bytes(b"a\nb\n"), "6 of 10 rows are missing, 2 rows are not"),
    "a link to another file": (
        lambda path: (path.unlink(), path.with_name("b").write_bytes(b"b\n"), path.symlink_to("b")),
        "6 of 10 rows are missing, 1 rows are not",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_rows_of_somebody_else_are_told_and_left_alone(case: str, results: list[Answer], tmp_path: Path) -> None:
    change, message = FOREIGN[case]
    with pytest.raises(RunError, match=message):
        disturbed(tmp_path, results, change, after=6)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("place", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/full")])
def test_something_else_in_the_place_of_the_file_ends_the_run(
    place: Change, results: list[Answer], tmp_path: Path
) -> None:
    def replaced(path: Path) -> None:
        path.unlink()
        place(path)

    with pytest.raises(RunError, match="it must be a regular file"):
        disturbed(tmp_path, results, replaced, after=6)


def test_traces_that_are_lost_are_told(results: list[Answer], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"4 traces are missing from .*traces\.jsonl"):
        disturbed(tmp_path, results, lambda path: path.with_name("traces.jsonl").unlink(), after=10)
    assert len(ids(tmp_path)) == 10


def test_damaged_traces_end_a_run_and_not_its_input(results: list[Answer], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"traces\.jsonl:1"):
        disturbed(tmp_path, results, lambda path: path.with_name("traces.jsonl").write_text("{}\n"), after=10)


def test_the_command_ends_with_one_and_says_how_many_rows_were_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    record = Journal.record

    def record_and_lose(journal: Journal, *results: Answer | Failure) -> None:
        record(journal, *results)
        if len(journal.answers) == 4:
            (tmp_path / "run" / "results.jsonl").unlink()

    monkeypatch.setattr(Journal, "record", record_and_lose)
    args = [
        "eval",
        "--task",
        "chain",
        "--limit",
        "6",
        "--batch-size",
        "2",
        "--runtime",
        "local",
        "--max-new-tokens",
        "8",
    ]
    args += ["--output", str(tmp_path / "run")]
    assert main(args) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    path = tmp_path / "run" / "results.jsonl"
    lost = "4 of 6 rows are missing, they are written again"
    assert errors == [f"error: {path}: something else changed it during the run: {lost}"]
    monkeypatch.undo()
    assert main([*args, "--resume"]) == 0
    assert len(ids(tmp_path / "run")) == 6


def test_an_undisturbed_run_says_nothing(
    results: list[Answer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disturbed(tmp_path, results, lambda path: path.touch(), after=6)
    assert ids(tmp_path) == [question.id for question in QUESTIONS]
    assert caplog.text == ""


@pytest.mark.parametrize("removed", [Path.unlink, lambda path: (path.unlink(), path.touch()), move_away])
def test_a_lock_that_is_removed_is_told_and_made_again(
    removed: Change, results: list[Answer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Journal.open(tmp_path, CONFIG, QUESTIONS) as journal:
        journal.record(*results[:6])
        removed(tmp_path / ".lock")
        with caplog.at_level(logging.WARNING):
            journal.record(*results[6:])
        assert caplog.messages == [
            f"{tmp_path}/.lock was removed while this run writes there: the folder is locked again"
        ]
        with pytest.raises(JournalError, match="another run is writing"), resumed(tmp_path):
            pass
        finish(journal)
    assert len(ids(tmp_path)) == 10


@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_second_run_behind_a_removed_lock_ends_the_first(
    at_the_end: bool, results: list[Answer], tmp_path: Path
) -> None:
    with Journal.open(tmp_path, CONFIG, QUESTIONS) as first:
        first.record(*results[: 10 if at_the_end else 6])
        (tmp_path / ".lock").unlink()
        with resumed(tmp_path) as second:
            assert len(second.answers) == (10 if at_the_end else 6)
            with pytest.raises(RunError, match=r"\.lock was removed .* another run is writing"):
                finish(first) if at_the_end else first.record(*results[6:])
            second.record(*results[6:])
            finish(second)
    assert ids(tmp_path) == [question.id for question in QUESTIONS]


def test_a_folder_that_is_gone_ends_the_run(results: list[Answer], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Journal.open(folder, CONFIG, QUESTIONS) as journal:
        journal.record(*results[:6])
        folder.rename(tmp_path / "away")
        with pytest.raises(RunError, match="was removed while this run wrote there"):
            journal.record(*results[6:])
    assert len(ids(tmp_path / "away")) == 6


NAMES = ("config.yaml", "results.jsonl", "summary.json", "traces.jsonl", "embeddings.json")


def planted_links(folder: Path, precious: Path) -> None:
    """Links under every name that earlier versions wrote to before they renamed it."""
    for name in NAMES:
        (folder / f".{name}.new").symlink_to(precious)


def test_a_link_that_was_planted_is_not_followed(results: list[Answer], tmp_path: Path) -> None:
    folder, precious = tmp_path / "run", tmp_path / "precious"
    folder.mkdir()
    precious.write_text("precious")
    planted_links(folder, precious)
    with Journal.open(folder, CONFIG, QUESTIONS) as journal:
        journal.record(*reversed(results))  # sorted at the end, which writes the whole file
        finish(journal)
    assert precious.read_text() == "precious"
    assert not (folder / "results.jsonl").is_symlink()
    assert ids(folder) == [question.id for question in QUESTIONS]


def test_a_lock_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="cannot be written to"):
        Journal.open(tmp_path, CONFIG, QUESTIONS)
    assert not (tmp_path / "elsewhere").exists()


def test_a_temporary_name_cannot_be_guessed_and_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int]] = []
    real = os.open

    def spy(path: object, flags: int, *more: int, **others: int) -> int:
        opened.append((str(path), flags))
        return real(path, flags, *more, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", spy)
    for _ in range(3):
        write_atomically(tmp_path / "a", b"a")
    monkeypatch.undo()
    names = [name for name, flags in opened if flags & os.O_CREAT]
    assert len(set(names)) == 3
    assert all(flags & os.O_EXCL and flags & os.O_NOFOLLOW for _, flags in opened if flags & os.O_CREAT)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", b"a")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".latentmas-0123456789abcdef.new").write_text("half")
    (tmp_path / "mine.new").write_text("mine")
    Journal.open(tmp_path, CONFIG, QUESTIONS).close()
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.yaml", "results.jsonl", "mine.new"}


@pytest.mark.parametrize("half", [b'{"id": "q', b"\0\0", b"{}"])
def test_no_row_follows_half_a_row(half: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b'{"a": 1}\n' + half)
    append_durably(path, b'{"b": 2}\n')
    assert path.read_bytes() == b'{"a": 1}\n{"b": 2}\n'
    path.write_bytes(half)
    append_durably(path, b'{"b": 2}\n')
    assert path.read_bytes() == b'{"b": 2}\n'
