"""The fault campaign: how schedules are drawn, watched, judged and logged, and six of them for real."""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.multinode.campaign.__main__ import main
from tests.multinode.campaign.campaign import Campaign
from tests.multinode.campaign.log import Outcome, Pause, append_outcome, judge, parse_seeds, read_outcomes, summarize
from tests.multinode.campaign.nodes import Nodes, three_nodes
from tests.multinode.campaign.one_run import Watch, run_schedule
from tests.multinode.campaign.schedule import KINDS, MAX_FAULTS, WORKERS, Fault, Schedule, draw_schedule
from tests.multinode.machines import Machine
from tests.ray.actor_cases import timeless

# All kinds of faults, all topologies, spread and colocated.
CI_SEEDS = (9, 14, 51, 102, 150, 163)


@given(st.integers(0, 10**9))
def test_a_schedule_can_be_carried_out_and_printed(seed: int) -> None:
    """Only what is there is hit, and only what is away joins; the same seed draws the same."""
    schedule = draw_schedule(seed)
    assert draw_schedule(seed) == schedule
    assert 1 <= len(schedule.faults) <= MAX_FAULTS
    there = set(schedule.workers)
    for fault in schedule.faults:
        assert 0 <= fault.after < schedule.work.num_questions
        assert str(fault) in str(schedule)
        if fault.kind == "join node":
            assert fault.node in set(WORKERS) - there
            there |= {fault.node}
        elif fault.node is not None:
            assert fault.node in there
            there -= {fault.node} if fault.loses_node else set()
    assert [fault.after for fault in schedule.faults] == sorted(fault.after for fault in schedule.faults)


def test_a_seed_means_the_same_everywhere() -> None:
    """Logs of other machines and versions name schedules by their seeds."""
    assert str(draw_schedule(1)) == (
        "own, 48 questions in batches of 2, 24 tokens, temperature 0, transfer recompute; replicas 1, auto, "
        "transport tcp, overlap, memory in flight auto; nodes 0, 1, 2; after 4: stop actor 2 for 1 s; "
        "after 8: kill actor 3; after 23: drain node 2 for 8 s"
    )


@pytest.mark.parametrize("seeds", [range(200), CI_SEEDS], ids=["the campaign", "continuous integration"])
def test_all_kinds_of_faults_occur(seeds: range | tuple[int, ...]) -> None:
    assert {fault.kind for seed in seeds for fault in draw_schedule(seed).faults} == set(KINDS)


@pytest.mark.parametrize(
    ("ids_and_answers", "verdict", "why"),
    [
        ([("q0", "1"), ("q1", "2")], "ok", ""),
        ([("q1", "2"), ("q0", "1")], "ok", ""),
        ([("q0", "1")], "lost", "without an answer: q1"),
        ([("q0", "1"), ("q1", "2"), ("q0", "1")], "doubled", "more than one answer, or none asked for: q0"),
        ([("q0", "1"), ("q1", "2"), ("q2", "2")], "doubled", "more than one answer, or none asked for: q2"),
        ([("q0", "1"), ("q1", "3")], "changed", "q1: answer"),
    ],
)
def test_answers_are_judged(ids_and_answers: list[tuple[str, str]], verdict: str, why: str) -> None:
    undisturbed = [{"id": "q0", "answer": "1"}, {"id": "q1", "answer": "2"}]
    assert judge([{"id": name, "answer": answer} for name, answer in ids_and_answers], undisturbed) == (verdict, why)


@pytest.mark.parametrize(("cosine", "verdict"), [(0.3238, "ok"), (0.34, "changed")])
def test_cosines_may_differ_by_rounding(cosine: float, verdict: str) -> None:
    """A driver that was killed leaves other questions to one batch than there were."""

    def row(cosine: float) -> dict[str, Any]:
        stats = {"repeats_from": None, "last_cosine": cosine, "cosines": [0.5855, cosine]}
        return {"id": "q0", "answer": "1", "transfers": [], "convergence": {"solver": stats}}

    stored = json.loads(json.dumps([timeless(row(0.3237))]))
    assert judge([timeless(row(cosine))], stored)[0] == verdict
    assert judge(stored, [timeless(row(cosine))])[0] == verdict


def test_a_log_is_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line of a seed counts, one that was cut off does not, and seeds that are there are not run again."""
    log = tmp_path / "log.jsonl"
    outcomes = [
        Outcome(seed=3, schedule="a", verdict="hung", why="it waited"),
        Outcome(seed=3, schedule="a", verdict="ok", pauses=[Pause(kind="kill actor", seconds=2.5)]),
        Outcome(seed=4, schedule="b", verdict="ok", pauses=[Pause(kind="kill actor", seconds=4.5, longest=9.0)]),
        Outcome(seed=5, schedule="c", verdict="ok", not_reached=["after 3: join node 1"]),
    ]
    for outcome in outcomes:
        append_outcome(log, outcome)
    with log.open("a") as file:
        file.write('{"seed": 6, "sch')
    assert read_outcomes(log) == {3: outcomes[1], 4: outcomes[2], 5: outcomes[3]}
    append_outcome(log, outcomes[3])
    assert read_outcomes(log) == {3: outcomes[1], 4: outcomes[2], 5: outcomes[3]}
    assert main(["--seeds", "3-4", "--log", str(log)]) == 0
    assert "2 seeds, of which 0 are still to be run" in capsys.readouterr().out
    table = summarize(outcomes[1:])
    assert "3 schedules: 3 ok" in table
    assert "| kill actor | 2 | 3.5 s | 9.0 s | 9.0 s | 0 |" in table
    assert "| join node | 0 |  |  |  | 1 |" in table
    assert "seed 3: hung: it waited" in summarize(outcomes[:1])


def test_seeds_are_numbers_and_ranges() -> None:
    assert parse_seeds("3,7-9,8") == [3, 7, 8, 9]
    for bad in ("", "x", "3-", "9-7"):
        with pytest.raises(ValueError, match="they are numbers and ranges, as in 3,7-9"):
            parse_seeds(bad)


def test_pauses_last_until_the_next_answer_and_silence_is_a_hang() -> None:
    now = 0.0
    watch = Watch(60.0, clock=lambda: now)
    now = 50.0
    watch.see_answers(2)
    now = 60.0
    watch.see_fault(Fault(after=2, kind="kill actor", pick=1))
    now = 61.0
    watch.see_fault(Fault(after=2, kind="stop actor", pick=1, seconds=1.0))
    watch.see_answers(2)
    now = 64.0
    watch.see_answers(3)
    now = 74.0
    watch.see_answers(4)
    assert watch.pauses == []
    now = 99.0
    watch.see_fault(Fault(after=3, kind="kill driver"))
    assert watch.pauses == [
        Pause(kind="kill actor", seconds=4.0, longest=10.0),
        Pause(kind="stop actor", seconds=3.0, longest=10.0),
    ]
    now = 159.0
    assert not watch.hangs
    now = 160.0
    assert watch.hangs
    watch.end()
    assert watch.pauses[2:] == [Pause(kind="kill driver", seconds=None)]


# Answers a question each 0.1 s, up to a number of them, and then lives on for some seconds. One that resumes has the
# rows of the one before.
_STAND_IN = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
folder.mkdir(exist_ok=True)
path = folder / "results.jsonl"
for number in range(len(path.read_text().split("\\n")) - 1 if path.exists() else 0, int(sys.argv[1])):
    with path.open("a") as file:
        file.write(json.dumps({"id": f"q{number}", "answer": "1", "transfers": []}) + "\\n")
    time.sleep(0.1)
print("continuing" if "--resume" in sys.argv else "started", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """A head without Ray, on which a process passes for an actor."""
    with ExitStack() as stack:
        machine = stack.enter_context(Machine("head"))
        actor = machine.start(["sleep", "1000"])
        cluster = SimpleNamespace(machines=[machine], address="198.51.100.1:1", environment={})
        yield cast(Nodes, SimpleNamespace(cluster=cluster, actors=lambda: [actor.pid]))


def _run_stand_in(nodes: Nodes, folder: Path, *arguments: str, quiet_seconds: float, after: int) -> Outcome:
    faults = (Fault(after=after, kind="kill driver"),)
    drawn = draw_schedule(0)
    schedule = Schedule(seed=0, work=drawn.work, way=drawn.way, workers=WORKERS, faults=faults)
    undisturbed: list[dict[str, Any]] = [{"id": f"q{number}", "answer": "1", "transfers": []} for number in range(20)]
    return run_schedule(
        nodes, schedule, [sys.executable, "-c", _STAND_IN, *arguments], undisturbed, folder, quiet_seconds
    )


def test_a_driver_that_is_killed_is_continued(nodes: Nodes, tmp_path: Path) -> None:
    outcome = _run_stand_in(nodes, tmp_path, "20", "0", quiet_seconds=60.0, after=2)
    assert (outcome.verdict, outcome.why, outcome.not_reached, outcome.num_retries) == ("ok", "", [], 1)
    assert [pause.kind for pause in outcome.pauses] == ["kill driver"]


@pytest.mark.parametrize(
    ("arguments", "verdict", "why"),
    [
        (("3", "0"), "lost", "without an answer: q10, q11"),
        (("3", "1000"), "hung", "nothing happened for 8 s after 3 of 20 answers; it said last: started"),
        (("x", "0"), "failed", "exit code 1 after 0 of 20 answers: Traceback"),
    ],
)
def test_a_bad_end_is_told(nodes: Nodes, tmp_path: Path, arguments: tuple[str, str], verdict: str, why: str) -> None:
    outcome = _run_stand_in(nodes, tmp_path, *arguments, quiet_seconds=8.0, after=15)
    assert outcome.verdict == verdict
    assert outcome.why.startswith(why)
    assert outcome.not_reached == ["after 15: kill driver"]
    assert (tmp_path / "stacks.txt").exists() == (verdict == "hung")


@pytest.mark.slow  # `tests/ray/test_runtime_faults.py` has actors that die, on one node
def test_schedules_lose_double_and_change_nothing(tmp_path: Path) -> None:
    """On one cluster, which is healed between them."""
    log = tmp_path / "log.jsonl"
    with three_nodes(tmp_path) as nodes:
        campaign = Campaign(nodes, tmp_path)
        outcomes = [campaign.run(seed, log) for seed in CI_SEEDS]
    assert [(one.seed, one.verdict, one.why) for one in outcomes] == [(seed, "ok", "") for seed in CI_SEEDS]
    assert len(log.read_text().splitlines()) == len(CI_SEEDS)
    assert json.loads(log.read_text().splitlines()[0])["schedule"] == str(draw_schedule(CI_SEEDS[0]))
