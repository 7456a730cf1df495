"""Output to a URL: when files are uploaded, the results of resumed runs, and errors of stores."""

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import JournalError, RunError
from latentmas_ray.runs.journal import Journal
from latentmas_ray.runs.store import open_output
from latentmas_ray.runs.summary import summarise
from latentmas_ray.scheduler.batch import plan_batches
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, make_driver, make_questions

QUESTIONS = make_questions(10)
BATCH_SIZE = 3
URL = "memory://bucket/runs/a"
PATIENCE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def store() -> Iterator[MemoryFileSystem]:
    """An empty store in this process; what it holds survives only the test's own steps."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield store
    store.store.clear()


def run(
    url: str,
    *,
    resume: bool = False,
    stop_after: int | None = None,
    upload_seconds: float = 3600.0,
    topology: str | None = None,
) -> None:
    """Run as the system does; the user presses Ctrl-C after `stop_after` results."""
    config = RunConfig(output=url, resume=resume, batch_size=BATCH_SIZE)
    runtime = FakeRuntime()
    with (
        open_output(url, upload_seconds=upload_seconds) as output,
        Journal.open(output.folder, config, QUESTIONS, topology=topology) as journal,
    ):
        output.start()
        batches = plan_batches(QUESTIONS, BATCH_SIZE, {answer.id for answer in journal.answers})
        for count, result in enumerate(make_driver(runtime, CHAIN).run(batches)):
            if count == stop_after:
                raise KeyboardInterrupt
            journal.record(result)
        summary = summarise(journal.answers, journal.failures, config=config, seconds=1.0)
        journal.finish(summary)


def names(url: str = URL) -> set[str]:
    store, root = fsspec.url_to_fs(url)
    return {Path(path).name for path in store.ls(root, detail=False)} if store.exists(root) else set()


def rows(url: str = URL) -> list[dict[str, Any]]:
    with fsspec.open(f"{url}/results.jsonl") as file:
        return [{**json.loads(line), "seconds": 0} for line in file.read().splitlines()]


def test_a_run_leaves_its_files_in_the_store_and_none_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(URL)
    assert names() == {"config.yaml", "results.jsonl", "summary.json"}
    assert [row["id"] for row in rows()] == [question.id for question in QUESTIONS]
    assert list(tmp_path.iterdir()) == []


def test_a_topology_of_one_s_own_is_in_the_store_too() -> None:
    run(URL, topology="name: mine")
    assert names() >= {"config.yaml", "topology.yaml", "results.jsonl", "summary.json"}


def test_a_file_url_is_the_folder_itself(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/run"
    assert open_output(url).folder == tmp_path / "run"
    run(url)
    assert names(url) == {".lock", "config.yaml", "results.jsonl", "summary.json"}


@pytest.mark.parametrize("stop_after", [0, 1, 5, 9])
def test_a_resumed_run_ends_as_an_undisturbed_one(stop_after: int) -> None:
    run("memory://bucket/undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run(URL, stop_after=stop_after)
    assert "config.yaml" in names()
    assert "summary.json" not in names()
    assert len(rows()) == stop_after
    run(URL, resume=True)
    assert rows() == rows("memory://bucket/undisturbed")
    assert "summary.json" in names()


def test_rows_are_uploaded_during_the_run() -> None:
    config = RunConfig(output=URL, batch_size=BATCH_SIZE)
    with open_output(URL, upload_seconds=0.01) as output, Journal.open(output.folder, config, QUESTIONS) as journal:
        output.start()
        assert "config.yaml" in names()
        results = make_driver(FakeRuntime(), CHAIN).run(plan_batches(QUESTIONS, BATCH_SIZE))
        for count, result in enumerate(results, start=1):
            journal.record(result)
            deadline = time.monotonic() + PATIENCE_SECONDS
            while len(rows()) < count:
                assert time.monotonic() < deadline
                time.sleep(0.005)


def test_no_answer_is_in_the_store_without_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a run is killed: a question that has its answer is not traced again."""
    config = RunConfig(output=URL, batch_size=1, trace=len(QUESTIONS))
    results = make_driver(FakeRuntime(), CHAIN, traced=frozenset(question.id for question in QUESTIONS)).run(
        plan_batches(QUESTIONS, 1)
    )
    real = MemoryFileSystem.pipe_file
    answered: set[str] = set()
    lacking: set[str] = set()

    def pipe_file(store: MemoryFileSystem, path: str, content: bytes) -> None:
        for result in itertools.islice(results, 1):  # something new while the store is busy
            journal.record(result)
        real(store, path, content)
        answered.update(ids("results.jsonl"))
        lacking.update(answered - ids("traces.jsonl"))

    def ids(name: str) -> set[str]:
        if name not in names():
            return set()
        with fsspec.open(f"{URL}/{name}") as file:
            return {json.loads(line)["id"] for line in file.read().splitlines()}

    with open_output(URL) as output, Journal.open(output.folder, config, QUESTIONS) as journal:
        monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
        output.start()
    assert answered
    assert not lacking


def test_half_a_row_is_computed_again(store: MemoryFileSystem) -> None:
    """What a copy in the wrong moment, or a killed process, leaves."""
    run("memory://bucket/undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run(URL, stop_after=5)
    path = "/bucket/runs/a/results.jsonl"
    store.pipe_file(path, store.cat_file(path)[:-20])
    run(URL, resume=True)
    assert rows() == rows("memory://bucket/undisturbed")


def test_outdated_files_go_away_in_the_store_too(store: MemoryFileSystem) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(URL, stop_after=5)
    for name in ("summary.json", "failures.jsonl"):
        store.pipe_file(f"/bucket/runs/a/{name}", b"{}\n")
    with pytest.raises(KeyboardInterrupt):
        run(URL, resume=True, stop_after=1)
    assert names() == {"config.yaml", "results.jsonl"}


def test_results_that_are_there_are_refused_under_their_url_and_left_alone() -> None:
    run(URL)
    before = rows()
    with pytest.raises(JournalError, match=rf"output: got '{URL}'; results.jsonl is already there") as caught:
        run(URL)
    assert "/tmp" not in str(caught.value)
    assert rows() == before
    with pytest.raises(JournalError, match=f"the run in {URL} has 3"), open_output(URL) as output:
        Journal.open(output.folder, RunConfig(output=URL, resume=True, batch_size=5), QUESTIONS)


def test_a_url_that_nothing_here_knows_is_bad_input() -> None:
    with pytest.raises(JournalError, match=r"a URL that fsspec .* support: Protocol not known: nosuch"):
        open_output("nosuch://bucket/a")


class Refusing(MemoryFileSystem):  # type: ignore[misc]
    """A store that fails as some libraries do: with errors that are no OSError."""

    protocol = "refusing"
    refuses: frozenset[str] = frozenset()

    def pipe_file(self, path: str, value: bytes, **more: Any) -> None:
        if "write" in self.refuses:
            raise RuntimeError("no credentials")
        super().pipe_file(path, value, **more)

    def exists(self, path: str, **more: Any) -> bool:
        if "read" in self.refuses:
            raise RuntimeError("no credentials")
        return bool(super().exists(path, **more))


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    fsspec.register_implementation("refusing", Refusing, clobber=True)
    monkeypatch.setattr(Refusing, "refuses", frozenset())
    return monkeypatch


@pytest.mark.parametrize("what", ["read", "write"])
def test_errors_of_a_store_are_raised_before_the_run(
    what: str, refusing: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refusing.setattr(Refusing, "refuses", frozenset({what}))
    with pytest.raises(JournalError, match=f"it must be {what[:4]}.*able: no credentials"):
        run("refusing://bucket/a")
    assert list(tmp_path.iterdir()) == []


def broken_off_at_the_end(url: str, refusing: pytest.MonkeyPatch, folders: list[Path], *, interrupted: bool) -> None:
    """A run of one answer whose store takes nothing any more."""
    config = RunConfig(output=url)
    with open_output(url) as output, Journal.open(output.folder, config, QUESTIONS) as journal:
        folders.append(output.folder)
        output.start()
        refusing.setattr(Refusing, "refuses", frozenset({"write"}))
        journal.record(next(make_driver(FakeRuntime(), CHAIN).run(plan_batches(QUESTIONS, BATCH_SIZE))))
        if interrupted:
            raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", [False, True])
def test_files_that_cannot_be_uploaded_at_the_end_stay_local(refusing: pytest.MonkeyPatch, interrupted: bool) -> None:
    folders: list[Path] = []
    with pytest.raises(KeyboardInterrupt if interrupted else RunError) as caught:
        broken_off_at_the_end("refusing://bucket/a", refusing, folders, interrupted=interrupted)
    (folder,) = folders
    try:
        said = str([*getattr(caught.value, "__notes__", []), caught.value])
        assert f"results cannot be uploaded to refusing://bucket/a (no credentials); they are in {folder}" in said
        assert (folder / "results.jsonl").read_text().count("\n") == 1
    finally:
        shutil.rmtree(folder)
