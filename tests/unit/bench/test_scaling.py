"""The benchmark of the runtime without a cluster: figures from given times, tables, the plot, and what is refused."""

import importlib.util
import io
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.scaling.figures import Latencies, Spread, driver_time, throughput_figures
from benchmarks.scaling.measure import ACTOR_BYTES, chain, fitting
from benchmarks.scaling.plot import draw
from benchmarks.scaling.settings import ScalingBenchSettings
from benchmarks.scaling.tables import scaling_tables
from benchmarks.scaling.timed_runtime import TimedRuntime, TurnTimes
from benchmarks.scaling.timer_runner import LATENT_STEPS, SPEC, TimerRunner, TurnStamps, make_chunks
from latentmas_ray.actors import LocalRuntime
from latentmas_ray.errors import ConfigError
from latentmas_ray.memory import join
from latentmas_ray.runs.results import Answer
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.shared import SharedScheduler
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.tasks.question import Question
from latentmas_ray.transport import Loopback
from tests.architecture.test_startup import HEAVY, RUN, imported_by
from tests.cases.scaling import outcome

AGENTS = ("planner", "writer", "judger")


def turn(
    ended: float, *, idle_since: float = 0.0, begun: float = 0.0, present: float = 0.0, sent: float = 0.0
) -> TurnTimes:
    """The driver has its result 1 s later."""
    stamps = TurnStamps(idle_since=idle_since, begun=begun, present=present, ended=ended)
    return TurnTimes(submitted=sent, seen=ended + 1, actor=stamps)


def test_speed_up_is_over_one_replica_and_medians_are_taken() -> None:
    one, two, four = throughput_figures(
        {4: [12.5], 1: [10.0], 2: [9.0, 10.0, 30.0]}, agents=1, batches=10, turn_seconds=0.8
    )
    assert (one.replicas, two.replicas, four.replicas) == (1, 2, 4)
    assert (one.questions_per_second, one.speed_up, one.share_of_linear, one.share_of_timer) == (1.0, 1.0, 1.0, 0.8)
    assert (two.questions, two.questions_per_second, two.speed_up, two.share_of_linear) == (20, 2.0, 2.0, 1.0)
    assert (four.questions_per_second, four.speed_up, four.share_of_linear) == pytest.approx((3.2, 3.2, 0.8))


def test_a_chain_that_fills_and_empties_is_no_loss() -> None:
    """Three agents of 1 s and five batches: 7 s, by the timers alone."""
    (figures,) = throughput_figures({1: [7.0]}, agents=3, batches=5, turn_seconds=1.0)
    assert (figures.actors, figures.share_of_timer) == (3, 1.0)


def test_what_no_call_of_the_runtime_took_is_the_driver_s_own() -> None:
    time = driver_time(
        [1.0, 3.0, 2.0], {"submit": 2.0, "poll": 1.0}, num_turns=4, thread=8.0, process=10.0, seconds=20.0
    )
    assert time.spread == Spread(count=3, p50=2.0, p99=3.0)
    assert time.parts == {"submit": 0.5, "poll": 0.25, "free_segments": 0.0, "rest": 1.25}
    assert (time.mean, time.process, time.cores) == (2.0, 2.5, 0.5)


def test_memory_goes_from_actor_to_actor_and_a_text_through_the_driver() -> None:
    turns = {
        (0, "planner"): turn(100.0),
        (0, "writer"): turn(200.0, present=100.5),
        (0, "judger"): turn(300.0, sent=210.0, begun=215.0),
    }
    found = Latencies.of(turns, AGENTS, ["planner"])
    assert found.memory == (0.5,)
    (way,) = found.text
    assert way == {"back": 1.0, "decide": 9.0, "there": 5.0}
    assert found.busy_share == 0.0
    assert [spread.p50 for spread in found.text_way().values()] == [1.0, 9.0, 5.0]


def test_a_reader_that_still_works_is_not_waiting_for_the_hand_over() -> None:
    turns = {
        (0, "planner"): turn(100.0),
        (0, "writer"): turn(200.0, present=150.0, idle_since=140.0),
        (0, "judger"): turn(300.0, sent=210.0, begun=215.0, idle_since=199.0),
    }
    found = Latencies.of(turns, AGENTS, ["planner"])
    assert found.memory == ()
    assert len(found.text) == 1
    assert found.busy_share == 0.5
    assert Spread.of(found.memory) is None


def test_the_segment_of_a_timer_is_a_whole_one() -> None:
    first, last = make_chunks((5, 7), LATENT_STEPS)
    segment = join([first, last])
    assert segment.turn_starts == (5, 7)
    assert segment.recompute_inputs.latents_per_question() == (LATENT_STEPS, LATENT_STEPS)
    assert segment.kv_LCHTD.numel() * segment.kv_LCHTD.element_size() == sum(segment.lengths) * SPEC.bytes_per_token


def test_turns_are_driven_and_counted_without_ray() -> None:
    topology = chain(2, 2)
    record = {"first": 0.02, "later": 0.01}
    questions = [Question(id=f"q{n}", question="", kind="text", gold=None, record=record) for n in range(3)]
    timed = TimedRuntime(LocalRuntime(TimerRunner, Loopback()))
    with closing(timed):
        info = timed.start()
        scheduler = SharedScheduler(Scheduler(timed, info=info))
        settings = DriverSettings(latent_steps=LATENT_STEPS)
        request = RunRequest(topology=topology, settings=settings, batches=plan_batches(questions, 1))
        results = list(scheduler.run(request))
    assert all(isinstance(result, Answer) for result in results)
    names = [agent.name for agent in topology.agents]
    assert set(timed.turns) == {(batch, name) for batch in range(3) for name in names}
    for (_, name), times in timed.turns.items():
        assert times.actor is not None
        assert times.submitted <= times.actor.begun <= times.actor.present < times.actor.ended <= times.seen
        assert times.actor.ended - times.actor.present >= (0.02 if name == names[0] else 0.01)
    assert 0 < len(timed.gaps) < len(timed.turns)  # what came with the first poll has none
    # One process is all agents: a reader is never idle while its source works.
    assert Latencies.of(timed.turns, names, names[:2]).busy_share == 1.0


def test_what_the_nodes_have_no_memory_for_is_left_out_or_refused() -> None:
    assert fitting(ScalingBenchSettings(), 20 * ACTOR_BYTES) == [4, 16]
    assert fitting(ScalingBenchSettings(actors=(8, 4, 8)), 20 * ACTOR_BYTES) == [4, 8]
    assert fitting(ScalingBenchSettings(hand_overs=False), 8 * ACTOR_BYTES) == []
    with pytest.raises(ConfigError, match="actors: got '4,64'; it must be at most 20: 4 GB of memory hold"):
        fitting(ScalingBenchSettings(actors=(4, 64)), 20 * ACTOR_BYTES)
    with pytest.raises(ConfigError, match="replicas: got '1,2,4,8'; with all agents it must be at most 20 actors"):
        fitting(ScalingBenchSettings(agents=3), 20 * ACTOR_BYTES)
    with pytest.raises(ConfigError, match="actors: got '4'; it must be at most 3"):
        fitting(ScalingBenchSettings(throughput=False), 3 * ACTOR_BYTES)


def test_the_tables_are_readable_at_80_columns() -> None:
    console = Console(width=80, file=io.StringIO(), highlight=False)
    console.print(scaling_tables(outcome()))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for part in ("64, alone", "64, flood", "56.85 ×", "12.3 ms", "6 %", "631 µs"):
        assert part in text


@pytest.mark.parametrize("parts", [{}, {"throughput": ()}, {"hand_overs": ()}])
def test_the_plot_is_a_png_of_some_size(parts: dict[str, tuple[()]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    draw(type(outcome())(**{**vars(outcome()), **parts}), str(path))
    raw = path.read_bytes()
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = (int.from_bytes(raw[first : first + 4], "big") for first in (16, 20))
    assert width > (500 if parts else 1000)
    assert height > 500


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--replicas", "1,x"], "--replicas: got '1,x'; it must be whole numbers of at least 1, as in 1,2,4,8"),
        (["--replicas", "2,4"], "--replicas: got '2,4'; it must be whole numbers of at least 1, and 1 among them"),
        (["--replicas", "0,1"], "--replicas: got '0,1'"),
        (["--replicas", ""], "--replicas: got ''"),
        (["--actors", "4,6"], "--actors: got '4,6'; they make chains of 4 agents"),
        (["--actors", "0"], "--actors: got '0'"),
        (["--actors", "9" * 5000], "--actors: got '999"),
        (["--agents", "0"], "--agents: got '0'; it must be at least 1"),
        (["--batches", "0"], "--batches: got '0'"),
        (["--repeats", "-1"], "--repeats: got '-1'"),
        (["--turn-seconds", "0"], "--turn-seconds: got '0.0'; it must be above 0 and at most 60"),
        (["--turn-seconds", "nan"], "--turn-seconds: got 'nan'"),
        (["--turn-seconds", "soon"], "--turn-seconds"),
        (["--no-throughput", "--no-hand-overs"], "--hand-overs: got 'no'; without throughput, too, nothing is left"),
        (["--plot", "plot.jpg"], "--plot: got 'plot.jpg'; it must be a file that ends in .png"),
        (["--plot", "./nowhere/plot.png"], "--plot: got './nowhere/plot.png'; its folder must exist"),
        (["--address", ""], "--address: got ''"),
        (["--address", "127.0.0.1:1"], "--address: got '127.0.0.1:1'; a Ray cluster must answer there"),
    ],
)
def test_bad_flags_are_told_in_one_line(flags: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scaling", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line


def test_a_plot_without_matplotlib_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["scaling", "--plot", str(tmp_path / "plot.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'.[report]'" in line


def test_wrong_flags_are_told_before_anything_heavy_is_imported() -> None:
    assert (
        imported_by(RUN.replace("latentmas_ray.cli.main", "benchmarks.__main__"), "scaling", "--replicas", "0") & HEAVY
        == set()
    )
