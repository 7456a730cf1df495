"""The timeline of a run: what is recorded, how it is read back, and how other clocks are put on the driver's."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.config import RunConfig
from latentmas_ray.engine.timing.phase_spans import cut_waits
from latentmas_ray.engine.turn import PhaseSpan, SegmentRead, TurnResult
from latentmas_ray.errors import JournalError
from latentmas_ray.runs.journal import Journal
from latentmas_ray.runs.results import Failure
from latentmas_ray.runs.run_events import (
    NodeDraining,
    NodeJoined,
    NodeLost,
    Observers,
    QuestionFailed,
    ReplicaLost,
    ReplicaReady,
    RunEnded,
    RunEvent,
    RunStarted,
    TurnFinished,
    TurnPlace,
    TurnRepeated,
)
from latentmas_ray.runs.timeline import TIMELINE_NAME, TimelineRecorder, read_timeline
from latentmas_ray.runs.timeline.rows import TurnRow
from tests.cases.scheduler import make_questions
from tests.cases.timeline import ZERO, pipelined, start, turn, write_timeline_rows, written_timeline

PLACE = TurnPlace("planner 0", ("n1", "n1"), 10.0)
RESULT = TurnResult(
    agent="planner",
    prompt_tokens=(3, 4),
    latent_steps=5,
    spans=(PhaseSpan(phase="prefill", begin=10.5, end=11.0), PhaseSpan(phase="think", begin=11.0, end=12.0)),
    question_spans=((PhaseSpan(phase="decode", begin=12.0, end=12.5),), ()),
    reads=(SegmentRead(source="scout", num_bytes=7, transport="tcp", seconds=0.25, link="cross_node", moved_bytes=6),),
)
EVENTS: tuple[RunEvent, ...] = (
    RunStarted(description="two actors", num_questions=2, num_done=0),
    ReplicaReady(("planner",), ("n1",), "planner 0"),
    TurnFinished(report=RESULT, question_ids=("a", "b"), place=PLACE, seen_at=13.0),
    ReplicaLost(("planner",), ("n1",), "it died", "planner 0"),
    TurnRepeated(agent="planner", reason="it died", question_ids=("c",), place=PLACE),
    NodeJoined("n2"),
    NodeLost("n2", "it was silent"),
    NodeDraining("n3"),
    QuestionFailed(failure=Failure(id="c", agent="planner", error="no")),
    RunEnded(),
)


def span(phase: Any, begin: float, end: float) -> PhaseSpan:
    return PhaseSpan(phase=phase, begin=begin, end=end)


def test_everything_that_happens_is_read_back(tmp_path: Path) -> None:
    recorder = Observers(None, TimelineRecorder(tmp_path))
    for event in EVENTS:
        recorder.on_event(event)
    (found,) = written_timeline(tmp_path).starts
    assert found.start.description == "two actors"
    assert found.start.num_questions == 2
    (done,) = found.turns
    assert (done.agent, done.replica, done.nodes, done.questions) == ("planner", "planner 0", ("n1",), ("a", "b"))
    assert (done.submitted_at, done.seen_at) == (10.0, 13.0)
    assert done.spans == (("prefill", 10.5, 11.0), ("think", 11.0, 12.0))
    assert done.question_spans == ((("decode", 12.0, 12.5),), ())
    (read,) = done.reads
    assert (read.source, read.num_bytes, read.moved_bytes, read.transport, read.link) == (
        "scout",
        7,
        6,
        "tcp",
        "cross_node",
    )
    assert (done.prompt_tokens, done.latent_steps) == (7, 5)
    assert [(row.event, row.replica, row.reason) for row in found.replicas] == [
        ("replica_ready", "planner 0", ""),
        ("replica_lost", "planner 0", "it died"),
    ]
    assert [(row.questions, row.submitted_at) for row in found.lost_turns] == [(("c",), 10.0)]
    assert [(row.event, row.node) for row in found.nodes] == [
        ("node_joined", "n2"),
        ("node_lost", "n2"),
        ("node_draining", "n3"),
    ]
    assert [(row.event, row.question, row.reason) for row in found.questions] == [("failed", "c", "no")]
    assert found.end is not None


def test_a_loss_has_the_time_at_which_it_was_seen(tmp_path: Path) -> None:
    """The driver hands it on when all actors have started again, which takes long."""
    recorder = TimelineRecorder(tmp_path)
    for event in (EVENTS[0], ReplicaLost(("planner",), ("n1",), "it died", "planner 0", at=10.0), *EVENTS[1:]):
        recorder.on_event(event)
    (found,) = written_timeline(tmp_path).starts
    assert found.replicas[0].at == 10.0


def test_a_clock_that_was_put_back_leaves_a_file_that_can_be_read(tmp_path: Path) -> None:
    result = TurnResult(agent="planner", prompt_tokens=(3,), spans=(span("think", 11.0, 10.0),))
    recorder = TimelineRecorder(tmp_path)
    for event in (EVENTS[0], TurnFinished(report=result, question_ids=("a",), place=PLACE, seen_at=13.0)):
        recorder.on_event(event)
    recorder.on_event(RunEnded())
    (found,) = written_timeline(tmp_path).starts
    assert found.turns[0].spans == (("think", 11.0, 11.0),)


def test_a_row_that_was_cut_off_is_left_out_and_replaced(tmp_path: Path) -> None:
    """A killed run leaves one; the start that follows writes behind the last whole row."""
    write_timeline_rows(tmp_path, [start(), turn("planner", ["a"], ("think", 0.0, 1.0))])
    path = tmp_path / TIMELINE_NAME
    path.write_bytes(path.read_bytes() + b'{"event": "turn", "agent": "pl')
    (found,) = written_timeline(tmp_path).starts
    assert len(found.turns) == 1
    assert found.end is None
    recorder = TimelineRecorder(tmp_path)
    for event in EVENTS:
        recorder.on_event(event)
    assert [len(one.turns) for one in written_timeline(tmp_path).starts] == [1, 1]


def test_a_new_run_has_no_old_timeline_and_a_resumed_one_continues_it(tmp_path: Path) -> None:
    write_timeline_rows(tmp_path, pipelined())
    config = RunConfig(output=str(tmp_path))
    with Journal.open(tmp_path, config, make_questions(2)) as journal:
        assert not (tmp_path / TIMELINE_NAME).exists()
        for event in EVENTS[:-1]:
            journal.timeline.on_event(event)
    assert len(written_timeline(tmp_path).starts) == 1  # closing has written it, though the run did not end


def test_a_timeline_that_cannot_be_written_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / TIMELINE_NAME).mkdir()
    recorder = TimelineRecorder(tmp_path)
    with caplog.at_level(logging.WARNING):
        for event in EVENTS * 2:
            recorder.on_event(event)
    assert len(caplog.messages) == 1
    assert "no timeline from here on" in caplog.messages[0]


@pytest.mark.parametrize(
    "row",
    [
        {"event": "turn"},
        {"event": "unheard of"},
        {"event": "start", "at": -1.0},
        {"event": "start", "at": 1e300},
        {**turn("planner", ["a"], ("think", 0.0, 1.0)), "spans": [["dream", ZERO, ZERO + 1]]},
        {**turn("planner", ["a"], ("think", 0.0, 1.0)), "spans": [["think", ZERO + 1, ZERO]]},
        {**turn("planner", ["a"], ("think", 0.0, 1.0)), "questions": []},
        turn("planner", ["a"], question_spans=[[("decode", 0.0, 1.0)], [("decode", 0.0, 1.0)]]),
        [],
    ],
    ids=str,
)
def test_what_no_run_writes_is_told_with_its_line(row: Any, tmp_path: Path) -> None:
    (tmp_path / TIMELINE_NAME).write_text(json.dumps(start()) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(JournalError, match=r"timeline\.jsonl:2") as caught:
        read_timeline(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"seen_at": -1}, "seen_at: got '-1'; it must be a number of at least 0"),
        ({"spans": [["dream", ZERO, ZERO + 1]]}, "spans.0.0: got 'dream'; it must be 'wait', 'absorb'"),
        ({"spans": [["think", ZERO]]}, "spans.0.2: got 'nothing'; it is missing"),
        ({"spans": [["think", ZERO, ZERO, 1]]}, "it must have at most 3 items, not 4"),
        ({"reads": [{}]}, "reads.0.source: got 'nothing'; it is missing"),
        ({"prompt_tokens": 1.5}, "prompt_tokens: got '1.5'; it must be a whole number"),
    ],
    ids=str,
)
def test_an_error_names_the_wrong_field_of_its_line(fields: dict[str, Any], named: str, tmp_path: Path) -> None:
    row = {**turn("planner", ["a"], ("think", 0.0, 1.0)), **fields}
    (tmp_path / TIMELINE_NAME).write_text(json.dumps(start()) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(JournalError, match=rf"timeline\.jsonl:2: {re.escape(next(iter(fields)))}") as caught:
        read_timeline(tmp_path)
    assert named in str(caught.value)
    assert str(caught.value).endswith("; remove the line")


def test_a_run_of_an_older_version_has_none(tmp_path: Path) -> None:
    assert read_timeline(tmp_path) is None


def _far_turn(begin: float, end: float, *, ahead: float, waited: float, unseen: float) -> dict[str, Any]:
    """A turn on a node whose clock is `ahead`: it began after it had waited, and was seen after it had ended."""
    own = turn("planner", ["a"], ("think", begin + ahead, end + ahead), nodes=["far"])
    return {**own, "submitted_at": ZERO + begin - waited, "seen_at": ZERO + end + unseen}


@pytest.mark.parametrize("ahead", [3.0, -40.0])
def test_another_clock_is_put_on_the_drivers(ahead: float, tmp_path: Path) -> None:
    """The bounds are those of the turn that waited least, and of the one that was seen first."""
    late = _far_turn(0.0, 1.0, ahead=ahead, waited=0.5, unseen=0.002)
    early = _far_turn(5.0, 6.0, ahead=ahead, waited=0.004, unseen=0.5)
    write_timeline_rows(tmp_path, [start(), late, early])
    (found,) = written_timeline(tmp_path).starts
    clock = found.clocks["far"]
    assert (clock.least, clock.most) == (pytest.approx(-ahead - 0.004), pytest.approx(-ahead + 0.002))
    assert clock.error == pytest.approx(0.003, rel=1e-3)
    for row, begin in zip(found.turns, (0.0, 5.0), strict=True):
        assert row.spans[0][1] - ZERO == pytest.approx(begin, abs=clock.error * 1.001)


def test_clocks_that_may_agree_are_left_alone(tmp_path: Path) -> None:
    write_timeline_rows(tmp_path, [start(), _far_turn(0.0, 1.0, ahead=0.0, waited=0.1, unseen=0.1)])
    (found,) = written_timeline(tmp_path).starts
    assert found.clocks["far"].shift == 0.0
    assert found.turns[0].spans[0][1:] == (ZERO, ZERO + 1.0)


def test_a_clock_that_was_changed_during_the_run_is_noticed(tmp_path: Path) -> None:
    rows = [_far_turn(0.0, 1.0, ahead=ahead, waited=0.1, unseen=0.1) for ahead in (0.0, 2.0)]
    write_timeline_rows(tmp_path, [start(), *rows])
    (found,) = written_timeline(tmp_path).starts
    assert not found.clocks["far"].is_consistent
    assert found.clocks["far"].error == pytest.approx(1.8)


@pytest.mark.parametrize(
    ("waits", "expected"),
    [
        ([], [("absorb", 1.0, 3.0)]),
        ([(1.5, 2.0)], [("absorb", 1.0, 1.5), ("wait", 1.5, 2.0), ("absorb", 2.0, 3.0)]),
        ([(1.0, 3.0)], [("wait", 1.0, 3.0)]),
        ([(0.5, 1.5), (2.5, 4.0)], [("wait", 1.0, 1.5), ("absorb", 1.5, 2.5), ("wait", 2.5, 3.0)]),
        ([(4.0, 5.0)], [("absorb", 1.0, 3.0)]),
    ],
)
def test_waits_are_cut_out_of_the_phase_that_waited(
    waits: list[tuple[float, float]], expected: list[tuple[str, float, float]]
) -> None:
    whole = (span("prefill", 0.0, 1.0), span("absorb", 1.0, 3.0))
    assert cut_waits(whole, waits) == (
        whole[0] if not waits or waits[0][0] >= 1.0 else span("prefill", 0.0, 0.5),
        *([] if not waits or waits[0][0] >= 1.0 else [span("wait", 0.5, 1.0)]),
        *(span(*one) for one in expected),
    )


def test_turns_are_read_as_rows(tmp_path: Path) -> None:
    write_timeline_rows(tmp_path, pipelined())
    (found,) = written_timeline(tmp_path).starts
    assert all(isinstance(row, TurnRow) for row in found.turns)
    assert len(found.turns) == 6
