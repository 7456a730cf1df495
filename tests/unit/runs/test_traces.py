"""Traces of a run: for the requested questions, on disk before their answers, also after interruptions."""

import json
import os
from pathlib import Path
from typing import Any

import fsspec
import pytest

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import JournalError, TurnError, TurnLostError
from latentmas_ray.runs.journal import Journal
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.store import open_output
from latentmas_ray.runs.summary import summarise
from latentmas_ray.runs.traces import EMBEDDINGS_NAME, TRACES_NAME, read_embeddings, read_traces
from latentmas_ray.scheduler.batch import plan_batches
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, make_driver, make_questions, run_all

QUESTIONS = make_questions(6)
TRACED = ("q0", "q1", "q2", "q3")
AGENTS = ["planner", "critic", "judger"]


def run(folder: Path, runtime: FakeRuntime, *, stop_after: int | None = None, **changes: Any) -> None:
    """Run as the system does; the user presses Ctrl-C after `stop_after` results."""
    config = RunConfig(**({"output": str(folder), "batch_size": 2, "trace": len(TRACED)} | changes))
    with Journal.open(folder, config, QUESTIONS) as journal:
        traced = frozenset(question.id for question in QUESTIONS[: config.trace])
        batches = plan_batches(QUESTIONS, 2, {answer.id for answer in journal.answers})
        for count, result in enumerate(make_driver(runtime, CHAIN, traced=traced).run(batches)):
            if count == stop_after:
                raise KeyboardInterrupt
            journal.record(result)
        journal.finish(summarise(journal.answers, journal.failures, config=config, seconds=1.0))


def test_traces_are_of_the_first_questions_and_of_all_agents(tmp_path: Path) -> None:
    run(tmp_path, FakeRuntime())
    traces = read_traces(tmp_path)
    assert list(traces) == list(TRACED)
    assert list(traces["q2"].agents) == AGENTS
    assert traces["q2"].agents["judger"].prompt == "judger on q2"
    assert traces["q2"].agents["judger"].reads == ("planner", "critic")
    embeddings = read_embeddings(tmp_path)
    assert embeddings is not None
    assert embeddings.explained == (0.5, 0.25)


def test_a_run_without_traces_writes_no_such_files(tmp_path: Path) -> None:
    run(tmp_path, FakeRuntime(), trace=0)
    assert not (tmp_path / TRACES_NAME).exists()
    assert not (tmp_path / EMBEDDINGS_NAME).exists()


@pytest.mark.parametrize("stop_after", range(6))
def test_a_resumed_run_has_the_traces_of_an_undisturbed_one(tmp_path: Path, stop_after: int) -> None:
    run(tmp_path / "whole", FakeRuntime())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", FakeRuntime(), stop_after=stop_after)
    run(tmp_path / "cut", FakeRuntime(), resume=True)
    for name in (TRACES_NAME, EMBEDDINGS_NAME):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("cut", [1, 20])
def test_a_trace_without_its_answer_is_dropped_and_made_again(tmp_path: Path, cut: int) -> None:
    run(tmp_path, FakeRuntime())
    whole = (tmp_path / TRACES_NAME).read_bytes()
    results = tmp_path / "results.jsonl"
    results.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[:2]))
    os.truncate(tmp_path / TRACES_NAME, len(whole) - cut)  # the process died while it wrote
    run(tmp_path, FakeRuntime(), resume=True)
    assert (tmp_path / TRACES_NAME).read_bytes() == whole


def test_a_resumed_run_may_ask_for_other_traces_and_has_them_of_what_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, FakeRuntime(), trace=0, stop_after=2)
    run(tmp_path, FakeRuntime(), trace=4, resume=True)
    assert list(read_traces(tmp_path)) == ["q2", "q3"]


def test_a_new_run_in_an_empty_folder_keeps_no_old_traces(tmp_path: Path) -> None:
    run(tmp_path, FakeRuntime())
    (tmp_path / "results.jsonl").unlink()
    run(tmp_path, FakeRuntime(), trace=1)
    assert list(read_traces(tmp_path)) == ["q0"]


def test_a_damaged_trace_is_an_error_with_its_line(tmp_path: Path) -> None:
    run(tmp_path, FakeRuntime())
    lines = (tmp_path / TRACES_NAME).read_text().splitlines(keepends=True)
    (tmp_path / TRACES_NAME).write_text("".join([lines[0], "{}\n", *lines[1:]]))
    with pytest.raises(JournalError, match=r"traces\.jsonl:2"):
        run(tmp_path, FakeRuntime(), resume=True)


@pytest.mark.parametrize("error", [TurnError("no"), TurnLostError("gone")])
def test_turns_that_are_done_again_leave_one_trace(error: Exception) -> None:
    failed: list[str] = []

    def failure(work: Any) -> Exception | None:
        if work.agent != "critic" or failed:
            return None
        failed.append(work.agent)
        return error

    answers, _ = run_all(FakeRuntime(failure=failure), CHAIN, QUESTIONS, traced=frozenset(TRACED))
    assert failed
    for name, answer in answers.items():
        assert (answer.trace is not None) == (name in TRACED)
        if answer.trace is not None:
            assert list(answer.trace.agents) == AGENTS


def test_traces_go_to_a_store_and_come_back() -> None:
    fsspec.filesystem("memory").store.clear()
    url = "memory://bucket/run"
    for _ in range(2):  # the second time nothing is left to do
        with open_output(url) as output:
            run(output.folder, FakeRuntime(), resume=True)
            output.start()
            assert list(read_traces(output.folder)) == list(TRACED)
    fsspec.filesystem("memory").store.clear()


def test_a_trace_is_no_part_of_an_answers_row() -> None:
    answers, _ = run_all(FakeRuntime(), CHAIN, QUESTIONS, traced=frozenset(TRACED))
    row = json.loads(json.dumps(answers["q0"].to_row()))
    assert Answer.from_row(row) == answers["q0"]
    assert "trace" not in row
