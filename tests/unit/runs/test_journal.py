"""The output folder: when files are written, which folders are rejected, and the results of resumed runs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import JournalError, OldNameWarning, RunError, TurnError
from latentmas_ray.report.runs import load_run
from latentmas_ray.runs.journal import Journal
from latentmas_ray.runs.results import Failure
from latentmas_ray.runs.summary import summarise
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.tasks.question import Question
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, make_driver, make_questions

QUESTIONS = make_questions(10)
BATCH_SIZE = 3


def run(folder: Path, runtime: FakeRuntime, *, resume: bool = False, stop_after: int | None = None) -> Journal:
    """Run as the system does; the user presses Ctrl-C after `stop_after` results."""
    config = RunConfig(output=str(folder), resume=resume, batch_size=BATCH_SIZE)
    with Journal.open(folder, config, QUESTIONS) as journal:
        batches = plan_batches(QUESTIONS, BATCH_SIZE, {answer.id for answer in journal.answers})
        results = make_driver(runtime, CHAIN).run(batches, num_done=len(journal.answers))
        for count, result in enumerate(results):
            if count == stop_after:
                raise KeyboardInterrupt
            journal.record(result)
        seconds = runtime.now
        journal.finish(
            summarise(
                journal.answers, journal.failures, config=config, seconds=seconds, num_resumed=journal.num_resumed
            )
        )
    return journal


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def without_times(all_rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in all_rows]


def open_again(folder: Path, questions: list[Question] = QUESTIONS, **changes: Any) -> Journal:
    values = {"output": str(folder), "resume": True, "batch_size": BATCH_SIZE} | changes
    with Journal.open(folder, RunConfig(**values), questions) as journal:
        return journal


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    run(tmp_path / "run", FakeRuntime())
    return tmp_path / "run"


def test_a_run_leaves_its_three_files(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {".lock", "config.yaml", "results.jsonl", "summary.json"}
    assert [row["id"] for row in rows(finished)] == [question.id for question in QUESTIONS]
    assert json.loads((finished / "summary.json").read_text())["num_questions"] == 10
    stored = yaml.safe_load((finished / "config.yaml").read_text())
    assert RunConfig(**stored) == RunConfig(output=str(finished), batch_size=BATCH_SIZE)


def test_a_run_from_before_a_field_is_resumed_without_it(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, FakeRuntime(), stop_after=5)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    del config["revision"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(JournalError, match="revision"):
        open_again(tmp_path, revision="main")
    assert open_again(tmp_path).num_resumed == 5


def test_a_run_from_before_a_name_was_changed_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, FakeRuntime(), stop_after=5)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"handover": config.pop("transfer")}))
    made = rows(tmp_path)
    for row in made:
        row["transfers"] = [{**one, "handover": "recipe"} for one in row["transfers"] if one.pop("mode")]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    with pytest.warns(OldNameWarning, match="handover=kv is now transfer=kv"):
        journal = open_again(tmp_path)
    assert [answer.id for answer in journal.answers] == [row["id"] for row in made]
    assert {transfer.mode for answer in journal.answers for transfer in answer.transfers} == {"recompute"}
    with pytest.warns(OldNameWarning):
        stored = load_run(tmp_path)
    assert stored.config.transfer == "kv"
    assert list(stored.answers) == journal.answers


@pytest.mark.parametrize("stop_after", range(10))
def test_a_resumed_run_ends_with_the_file_of_an_undisturbed_one(
    tmp_path: Path, finished: Path, stop_after: int
) -> None:
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt):
        run(folder, FakeRuntime(), stop_after=stop_after)
    assert len(rows(folder)) == stop_after
    assert not (folder / "summary.json").exists()
    runtime = FakeRuntime()
    run(folder, runtime, resume=True)
    assert without_times(rows(folder)) == without_times(rows(finished))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_questions"] == 10
    assert summary["questions_per_second"] == pytest.approx((10 - stop_after) / runtime.now)


@pytest.mark.parametrize("cut", [1, 20, 300])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, finished: Path, cut: int) -> None:
    folder = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        run(folder, FakeRuntime(), stop_after=5)
    path = folder / "results.jsonl"
    os.truncate(path, path.stat().st_size - cut)
    journal = run(folder, FakeRuntime(), resume=True)
    # Where only the line break is missing the answer is whole, and is kept.
    assert journal.num_resumed == (5 if cut == 1 else 4)
    assert without_times(rows(folder)) == without_times(rows(finished))


def test_rows_are_put_in_the_order_of_the_questions(tmp_path: Path, finished: Path) -> None:
    def failure(work: Any) -> Exception | None:
        return TurnError("no") if work.question_ids == ("q0", "q1", "q2") else None

    folder = tmp_path / "disordered"
    runtime = FakeRuntime(failure=failure, seconds=lambda work: 0.1 if work.batch else 5.0)
    run(folder, runtime)
    assert [row["id"] for row in rows(folder)] == [question.id for question in QUESTIONS]


def test_failures_are_recorded_and_retried(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(folder, FakeRuntime(failure=lambda work: TurnError("no") if "q4" in work.question_ids else None))
    assert [json.loads(line) for line in (folder / "failures.jsonl").read_text().splitlines()] == [
        {"id": "q4", "agent": "planner", "error": "no"}
    ]
    assert len(rows(folder)) == 9
    assert json.loads((folder / "summary.json").read_text())["num_failed"] == 1
    run(folder, FakeRuntime(), resume=True)
    assert not (folder / "failures.jsonl").exists()
    assert [row["id"] for row in rows(folder)] == [question.id for question in QUESTIONS]
    assert rows(folder)[4]["answer"] == "judger on q4 among q3 q4 q5"


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    runtime = FakeRuntime()
    run(finished, runtime, resume=True)
    assert not runtime.works
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_a_row_is_never_written_twice(finished: Path) -> None:
    before = (finished / "results.jsonl").read_bytes()
    config = RunConfig(output=str(finished), resume=True, batch_size=BATCH_SIZE)
    with Journal.open(finished, config, QUESTIONS) as journal:
        journal.record(*journal.answers, *journal.answers)
    assert (finished / "results.jsonl").read_bytes() == before


def test_resume_starts_where_there_is_nothing_yet(tmp_path: Path) -> None:
    run(tmp_path / "deep" / "new", FakeRuntime(), resume=True)
    assert len(rows(tmp_path / "deep" / "new")) == 10


def test_any_text_survives(tmp_path: Path) -> None:
    texts = ["line\u2028separator", "null \x00", "emoji 🦙", "lone \ud800", 'quote " back \\ \r\n']
    questions = [
        Question(id=f"q{index}", question=text, kind="text", gold=text, record={"question": text})
        for index, text in enumerate(texts)
    ]
    config = RunConfig(output=str(tmp_path), resume=True)
    with Journal.open(tmp_path, config, questions) as journal:
        journal.record(*make_driver(FakeRuntime(), CHAIN).run(plan_batches(questions, 2)))
        answers = journal.answers
    with Journal.open(tmp_path, config, questions) as journal:
        assert journal.answers == answers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume": False}, "--resume"),
        ({"latent_steps": 7}, "latent_steps: got '7'; the run in .* has 5; resume with the same"),
        ({"model": "other"}, "model: got 'other'; the run in .* has 'tiny'"),
        ({"limit": 5}, "limit: got '5'; .* has None"),
        ({"batch_size": 4}, "batch_size"),
    ],
)
def test_another_run_is_refused(finished: Path, changes: dict[str, Any], message: str) -> None:
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    with pytest.raises(JournalError, match=message):
        open_again(finished, **changes)
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


@pytest.mark.parametrize("changes", [{"runtime": "local"}, {"replicas": 4}, {"memory_in_flight": "1GB"}])
def test_where_a_run_goes_on_is_free(finished: Path, changes: dict[str, Any]) -> None:
    assert len(open_again(finished, **changes).answers) == 10


def test_pinned_facts_must_be_shared(tmp_path: Path, finished: Path) -> None:
    config = RunConfig(output=str(tmp_path), resume=True)
    with Journal.open(tmp_path, config, QUESTIONS, pinned={"topology_digest": "aa"}) as journal:
        journal.record(*make_driver(FakeRuntime(), CHAIN).run(plan_batches(QUESTIONS[:1], 1)))
    Journal.open(tmp_path, config, QUESTIONS, pinned={"topology_digest": "aa"}).close()
    with pytest.raises(JournalError, match=r"topology_digest: got 'bb'; .* has 'aa'"):
        Journal.open(tmp_path, config, QUESTIONS, pinned={"topology_digest": "bb"})
    with pytest.raises(JournalError, match="no such field"):
        Journal.open(
            finished,
            RunConfig(output=str(finished), resume=True, batch_size=BATCH_SIZE),
            QUESTIONS,
            pinned={"topology_digest": "bb"},
        )


def test_a_fact_that_is_known_after_the_start_must_be_shared(tmp_path: Path, finished: Path) -> None:
    config = RunConfig(output=str(tmp_path), resume=True)
    with Journal.open(tmp_path, config, QUESTIONS, pinned={"topology_digest": "aa"}) as journal:
        journal.pin("engine", "judger=vllm", before="transformers")
        journal.record(*make_driver(FakeRuntime(), CHAIN).run(plan_batches(QUESTIONS[:1], 1)))
    written = (tmp_path / "config.yaml").read_bytes()
    with Journal.open(tmp_path, config, QUESTIONS, pinned={"topology_digest": "aa"}) as journal:
        journal.pin("engine", "judger=vllm", before="transformers")
        with pytest.raises(JournalError, match=r"engine: got 'transformers'; .* has 'judger=vllm'; resume with"):
            journal.pin("engine", "transformers", before="transformers")
    assert (tmp_path / "config.yaml").read_bytes() == written


def test_a_fact_that_older_runs_did_not_note(finished: Path) -> None:
    with open_again(finished) as journal:
        journal.pin("engine", "transformers", before="transformers")
        with pytest.raises(JournalError, match=r"engine: got 'judger=vllm'; .* has 'transformers'"):
            journal.pin("engine", "judger=vllm", before="transformers")
        (finished / "config.yaml").write_text("[]")
        with pytest.raises(RunError, match="something else has changed"):
            journal.pin("engine", "judger=vllm", before="transformers")


def _edit(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n")


def _row(finished: Path, **changes: Any) -> str:
    return json.dumps(rows(finished)[3] | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "q2"}, "results.jsonl:4: id: got 'q2'; it occurs twice"),
        ({"id": "other"}, "results.jsonl:4: id: got 'other'; the task has no such question"),
        ({"id": 3}, "results.jsonl:4: .*not a row of results"),
        ({"question": "another?"}, "results.jsonl:4: question: got 'another"),
        ({"gold": "another"}, "results.jsonl:4: gold"),
        ({"correct": "yes"}, "results.jsonl:4: .*not a row"),
        ({"tokens": 7}, "results.jsonl:4: .*not a row"),
        ({"memory_bytes": -1}, "results.jsonl:4: .*not a row"),
        ({"answer_token_ids": None}, "results.jsonl:4: .*not a row"),
        ({"transfers": [{"wrong": 1}]}, "results.jsonl:4: .*not a row"),
        ({"agent_seconds": {}}, "results.jsonl:4: .*not a row"),
    ],
)
def test_a_row_of_another_form_is_refused(finished: Path, changes: dict[str, Any], message: str) -> None:
    _edit(finished / "results.jsonl", 4, _row(finished, **changes))
    with pytest.raises(JournalError, match=message):
        open_again(finished)


@pytest.mark.parametrize("line", ["", "{", "[]", "7", '{"id": "q3"}', "\x00\x00", "not json"])
def test_a_damaged_line_is_refused(finished: Path, line: str) -> None:
    _edit(finished / "results.jsonl", 4, line)
    with pytest.raises(JournalError, match=r"results\.jsonl:4: "):
        open_again(finished)


def test_bytes_that_are_no_text_are_refused(finished: Path) -> None:
    path = finished / "results.jsonl"
    path.write_bytes(b"\xff\xfe\n" + path.read_bytes())
    with pytest.raises(JournalError, match=r"results\.jsonl:1: "):
        open_again(finished)


def test_unknown_keys_are_left_in_rows(finished: Path) -> None:
    _edit(finished / "results.jsonl", 4, _row(finished, note="checked by hand"))
    assert len(open_again(finished).answers) == 10


@pytest.mark.parametrize("text", ["[1", "- a", "", "7"])
def test_a_damaged_configuration_is_refused(finished: Path, text: str) -> None:
    (finished / "config.yaml").write_text(text)
    with pytest.raises(JournalError, match=r"config\.yaml"):
        open_again(finished)


def test_results_without_a_configuration_are_refused(finished: Path) -> None:
    (finished / "config.yaml").unlink()
    with pytest.raises(JournalError, match="it is unknown which run"):
        open_again(finished)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="it is a file"):
        open_again(tmp_path / "file")
    with pytest.raises(JournalError, match="cannot be created"):
        open_again(tmp_path / "file" / "below")


def test_a_folder_in_the_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(JournalError, match=r"results\.jsonl: got 'a folder'; it must be a regular file"):
        open_again(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(JournalError, match="cannot be written to"):
        open_again(tmp_path)


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    config = RunConfig(output=str(tmp_path), resume=True)
    with (
        Journal.open(tmp_path, config, QUESTIONS),
        pytest.raises(JournalError, match="another run is writing"),
    ):
        Journal.open(tmp_path, config, QUESTIONS)
    Journal.open(tmp_path, config, QUESTIONS).close()


def test_a_refused_journal_lets_go_of_the_folder(finished: Path) -> None:
    with pytest.raises(JournalError):
        open_again(finished, resume=False)
    assert len(open_again(finished).answers) == 10


KILLED_RUN = """
import os, pathlib, signal, sys
from tests.cases.fake_runtime import FakeRuntime
from tests.unit.runs.test_journal import run

def kill(runtime):
    if runtime.now >= 4:
        os.kill(os.getpid(), signal.SIGKILL)

run(pathlib.Path(sys.argv[1]), FakeRuntime(on_wait=kill))
"""


def test_a_killed_run_is_resumed(tmp_path: Path, finished: Path) -> None:
    """The lock dies with its process, and every answer that was given out is on disk."""
    folder = tmp_path / "killed"
    root = Path(__file__).parents[3]
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, str(folder)], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (folder / ".lock").exists()
    assert [row["id"] for row in rows(folder)] == ["q0", "q1", "q2", "q3", "q4", "q5"]
    run(folder, FakeRuntime(), resume=True)
    assert without_times(rows(folder)) == without_times(rows(finished))


def test_a_full_disk_ends_the_run_and_leaves_whole_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = list(make_driver(FakeRuntime(), CHAIN).run(plan_batches(QUESTIONS, BATCH_SIZE)))
    config = RunConfig(output=str(tmp_path), resume=True)

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Journal.open(tmp_path, config, QUESTIONS) as journal:
        journal.record(*results[:4])
        before = (tmp_path / "results.jsonl").read_bytes()
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(RunError, match="No space left"):
            journal.record(results[4], Failure(id="q9", agent="a", error="e"))
        monkeypatch.undo()
        assert (tmp_path / "results.jsonl").read_bytes() == before
        journal.record(*results[4:])
    assert len(rows(tmp_path)) == 10
