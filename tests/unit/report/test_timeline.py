"""The timeline as a trace and as a picture."""

import itertools
import json
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.report.timeline import make_pictures
from latentmas_ray.report.timeline.lanes import Chart, make_chart
from latentmas_ray.report.timeline.windows import MAX_BARS_PER_ROW, choose_windows
from tests.cases.report import PageParts, write_simple_run
from tests.cases.timeline import (
    ZERO,
    Rows,
    change,
    overlapping,
    pipelined,
    read,
    start,
    timeline_of,
    turn,
    write_timeline_rows,
)


def chart(folder: Path, rows: Rows) -> Chart:
    found = make_chart(timeline_of(folder, rows).starts[0])
    assert found is not None
    return found


def test_turns_of_a_pipeline_are_in_the_lanes_of_their_replicas(tmp_path: Path) -> None:
    found = chart(tmp_path, pipelined())
    assert [(lane.name, len(lane.rows), len(lane.bars)) for lane in found.lanes] == [
        ("thinker 0", 1, 3),
        ("writer 0", 1, 3),
    ]
    assert found.lanes[1].nodes == ("far",)
    assert [fault.replica for fault in found.faults] == ["thinker 0"]


def test_an_arrow_goes_from_the_last_chunk_to_the_reader_that_absorbs_it(tmp_path: Path) -> None:
    found = chart(tmp_path, pipelined(2))
    times = [(arrow.begin - ZERO, arrow.end - ZERO) for arrow in found.arrows]
    assert times == [(pytest.approx(1.9), pytest.approx(2.0)), (pytest.approx(3.9), pytest.approx(4.0))]
    assert {arrow.source.questions for arrow in found.arrows} == {("q0a", "q0b"), ("q1a", "q1b")}


def test_a_reader_that_overlaps_its_source_reads_the_prompts_chunk(tmp_path: Path) -> None:
    thinks = [("prefill", 0.0, 1.0), ("emit", 1.0, 1.1), ("think", 1.1, 5.0), ("emit", 5.0, 5.1)]
    reads = [("absorb", 1.2, 1.3), ("wait", 1.3, 5.2), ("absorb", 5.2, 5.3), ("decode", 5.3, 6.0)]
    rows = [start(), turn("thinker", ["q"], *thinks), turn("writer", ["q"], *reads, reads=[read("thinker")])]
    (arrow,) = chart(tmp_path, rows).arrows
    assert (arrow.begin - ZERO, arrow.end - ZERO) == (pytest.approx(1.1), pytest.approx(1.2))


def test_the_source_of_memory_is_the_turn_that_was_repeated(tmp_path: Path) -> None:
    first, again = turn("thinker", ["q"], ("think", 0.0, 1.0)), turn("thinker", ["q"], ("think", 2.0, 3.0))
    rows = [start(), first, again, turn("writer", ["q"], ("absorb", 3.1, 3.2), reads=[read("thinker")])]
    (arrow,) = chart(tmp_path, rows).arrows
    assert arrow.source.begin == ZERO + 2.0


def test_questions_that_are_written_at_the_same_time_have_rows_of_their_own(tmp_path: Path) -> None:
    (lane,) = chart(tmp_path, overlapping()).lanes
    assert sorted(len(row.bars) for row in lane.rows) == [1, 1, 1, 1]
    assert {bar.questions for bar in lane.bars} == {("q0",), ("q1",), ("q2",), ("r0",)}
    for row in lane.rows:
        ends = [(bar.begin, bar.end) for bar in row.bars]
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ends))
    assert next(bar for bar in lane.bars if bar.questions == ("q0",)).spans[0] == ("absorb", ZERO, ZERO + 0.05)


def test_the_picture_shows_overlap_hand_overs_and_faults(tmp_path: Path) -> None:
    (picture,) = make_pictures(timeline_of(tmp_path, pipelined()))
    assert "2 replicas" in picture.headline
    assert "1 replica was lost" in picture.headline
    assert picture.phases == ("absorb", "prefill", "think", "emit", "decode")
    (strip,) = picture.strips
    assert picture.overview is None
    assert [bar.label for bar in strip.bars] == ["1", "2", "3", "1", "2", "3"]
    assert [arrow.label for arrow in strip.arrows] == ["2 MB tcp", "", ""]
    assert all(arrow.crosses_nodes for arrow in strip.arrows)
    assert [outage.kind for outage in strip.outages] == ["down", "lost"]
    (route,) = picture.routes
    assert (route.source, route.reader, route.route, route.count) == ("thinker", "writer", "cross node, tcp", 3)
    assert [line.what for line in picture.events] == [
        "replica thinker 0 was lost",
        "a turn of thinker (q9) was lost and repeated",
        "replica thinker 0 was ready again",
        "node 3 joined",
    ]
    for bar in strip.bars:
        assert sum(piece.width for piece in bar.pieces) == pytest.approx(100, abs=1)


def test_a_replica_is_down_until_it_is_seen_ready_or_begins_a_turn(tmp_path: Path) -> None:
    """The driver looks every few seconds whether it is ready; turns that wait for it begin at once."""
    before, after = turn("solver", ["a"], ("think", 0.0, 1.0)), turn("solver", ["b"], ("think", 5.0, 7.0))
    lost, ready = change("replica_lost", 2.0, "solver 0"), change("replica_ready", 6.0, "solver 0")
    (picture,) = make_pictures(
        timeline_of(tmp_path, [start(), before, lost, ready, after, change("replica_lost", 8.0, "solver 0")])
    )
    (strip,) = picture.strips
    assert [outage.label for outage in strip.outages] == ["lost for 3.0 s", "lost to the end"]


def test_a_long_run_is_an_overview_and_windows(tmp_path: Path) -> None:
    rows = pipelined(400)
    rows.insert(-1, change("replica_lost", 300.0, "writer 0", reason="its node died"))
    found = chart(tmp_path, rows)
    windows = choose_windows(found, 8)
    assert [window.shows for window in windows] == ["its beginning", "the loss of writer 0", "the loss of thinker 0"]
    assert all(one.end <= later.begin for one, later in itertools.pairwise(windows))
    (picture,) = make_pictures(timeline_of(tmp_path, rows))
    assert picture.overview is not None
    for strip in picture.strips:
        assert len(strip.bars) <= 2 * (MAX_BARS_PER_ROW + 2)


def test_a_loss_just_after_a_window_has_one_of_its_own(tmp_path: Path) -> None:
    rows = pipelined(400)
    (first, *_) = choose_windows(chart(tmp_path, rows), 8)
    rows.insert(-1, change("replica_lost", first.end - ZERO + 0.1 * first.seconds, "writer 0"))
    windows = choose_windows(chart(tmp_path, rows), 8)
    assert windows[1].shows == "the loss of writer 0"
    assert windows[1].begin >= windows[0].end


def test_a_turn_that_lost_its_memory_is_not_drawn_at_an_older_loss(tmp_path: Path) -> None:
    rows = [
        start(),
        turn("solver", ["a"], ("think", 0.0, 1.0)),
        change("replica_lost", 2.0, "solver 0"),
        turn("solver", ["b"], ("think", 3.0, 8.0)),
        {
            "event": "lost_turn",
            "at": ZERO + 10.0,
            "agent": "solver",
            "replica": "solver 0",
            "questions": ["c"],
            "submitted_at": ZERO + 9.0,
            "reason": "its segment was lost",
        },
        turn("solver", ["c"], ("think", 11.0, 12.0)),
    ]
    (picture,) = make_pictures(timeline_of(tmp_path, rows))
    (strip,) = picture.strips
    (lost,) = [outage for outage in strip.outages if outage.kind == "lost"]
    assert lost.width == pytest.approx(100 / 12, abs=0.1)
    assert lost.left == pytest.approx(900 / 12, abs=0.1)


def test_a_replica_that_is_lost_while_it_starts_is_down_once(tmp_path: Path) -> None:
    losses = [change("replica_lost", at, "solver 0") for at in (2.0, 3.0)]
    after = turn("solver", ["b"], ("think", 5.0, 7.0))
    rows = [start(), turn("solver", ["a"], ("think", 0.0, 1.0)), *losses, after]
    (picture,) = make_pictures(timeline_of(tmp_path, rows))
    assert [outage.label for outage in picture.strips[0].outages if outage.kind == "down"] == ["lost for 3.0 s"]


def _old_run(folder: Path) -> Path:
    return write_simple_run(folder / "run", method="latent")


def test_the_command_writes_a_page_and_a_trace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_timeline_rows(_old_run(tmp_path), pipelined())
    assert main(["timeline", str(folder)]) == 0
    page = PageParts((folder / "timeline.html").read_text())
    assert page.scripts.keys() == {"style"}
    assert page.addresses == ["data:,"]
    assert page.handlers == []
    assert "thinker → writer" in page.text
    assert json.loads((folder / "timeline.trace.json").read_text())["traceEvents"]
    assert capfd.readouterr().out == ""
    assert main(["timeline", str(folder), "--output", str(tmp_path / "other.html")]) == 0
    assert (tmp_path / "other.html").read_text() == (folder / "timeline.html").read_text()
    assert (tmp_path / "other.trace.json").exists()


@pytest.mark.parametrize(
    ("rows", "output", "told"),
    [
        (None, None, "older versions recorded no times"),
        ([start()], None, "no turn of it is in timeline.jsonl yet"),
        ([{"event": "turn"}], None, "timeline.jsonl:1"),
        (pipelined(), "page.txt", "it must be a file that ends in .html"),
        (pipelined(), "absent/page.html", "its folder must exist"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(
    rows: Rows | None, output: str | None, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = _old_run(tmp_path)
    if rows is not None:
        write_timeline_rows(folder, rows)
    assert main(["timeline", str(folder), *([] if output is None else ["--output", str(tmp_path / output)])]) == 2
    err = capfd.readouterr().err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("flags", [(), ("--output", "memory://somewhere")])
def test_a_timeline_needs_a_folder(flags: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--task", "chain", "--timeline", *flags]) == 2
    assert "it is written to the output folder" in capfd.readouterr().err


def test_names_cannot_be_markup(tmp_path: Path) -> None:
    name = "<script>x</script>"
    folder = write_timeline_rows(_old_run(tmp_path), [start(), turn(name, [name], ("think", 0.0, 1.0))])
    assert main(["timeline", str(folder)]) == 0
    assert PageParts((folder / "timeline.html").read_text()).scripts.keys() == {"style"}


def wide(num_replicas: int, num_turns: int) -> Rows:
    """Two agents with many replicas each, all at work at the same time; one of them is lost."""
    rows: Rows = [start()]
    for replica in range(num_replicas):
        for number in range(num_turns):
            names, begin = [f"q{replica}-{number}"], 2.0 * number
            rows.append(turn("thinker", names, ("think", begin, begin + 1.0), replica=f"thinker {replica}"))
            spans = [("absorb", begin + 1.1, begin + 1.2), ("decode", begin + 1.2, begin + 1.9)]
            rows.append(turn("writer", names, *spans, reads=[read("thinker")], replica=f"writer {replica}"))
    return [*rows, change("replica_lost", 0.5, f"thinker {num_replicas - 1}")]


def test_a_page_shows_replicas_of_every_agent_and_those_that_were_lost(tmp_path: Path) -> None:
    (picture,) = make_pictures(timeline_of(tmp_path, wide(40, 1)))
    (strip,) = picture.strips
    names = [name.name for name in strip.names]
    assert len(names) == 64
    assert names[:3] == ["thinker 0", "thinker 1", "thinker 2"]  # and not 10
    assert [sum(name.startswith(agent) for name in names) for agent in ("thinker", "writer")] == [33, 31]
    assert "thinker 39" in names
    assert strip.is_dense
    assert picture.notes[0] == "16 further replicas are only in the trace file."


def test_arrows_that_would_hide_what_they_connect_are_fewer(tmp_path: Path) -> None:
    (picture,) = make_pictures(timeline_of(tmp_path, wide(20, 20)))
    (strip,) = picture.strips
    assert len(strip.arrows) == 134
    assert strip.has_faint_arrows
    assert strip.caption.endswith("one of 3 hand-overs has its arrow")


def test_replicas_that_do_nothing_in_a_part_are_left_out_of_it(tmp_path: Path) -> None:
    rows = pipelined(400)
    rows.insert(-1, turn("critic", ["late"], ("think", 795.0, 796.0)))
    (picture,) = make_pictures(timeline_of(tmp_path, rows))
    first, *_, last = picture.strips
    assert [name.name for name in first.names] == ["thinker 0", "writer 0"]
    assert "1 idle replica is left out" in first.caption
    assert "critic 0" in [name.name for name in last.names]


def test_turns_that_were_lost_together_are_one_line(tmp_path: Path) -> None:
    lost = {"event": "lost_turn", "agent": "thinker", "replica": "thinker 0", "reason": "its actor died"}
    rows = [
        *pipelined(),
        *({**lost, "at": ZERO + 1.0 + 0.01 * number, "questions": [f"q{number}"]} for number in range(3)),
    ]
    (picture,) = make_pictures(timeline_of(tmp_path, rows))
    assert "3 turns of thinker (3 questions) were lost and repeated" in [line.what for line in picture.events]
