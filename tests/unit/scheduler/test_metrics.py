"""Metrics of a run with their tags, from the events of the run and the load of the scheduler."""

import contextlib
from collections import Counter
from collections.abc import Mapping

import pytest

from latentmas_ray.errors import ActorError, TurnError
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.metrics import METRICS, Metric
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.shared import SharedScheduler
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.topology.agent import Topology
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import CHAIN, TALK, Recorder, make_questions

Series = tuple[str, tuple[tuple[str, str], ...]]


class Sink:
    """Stores the totals of counters, and all values of gauges."""

    def __init__(self) -> None:
        self.totals: Counter[Series] = Counter()
        self.values: dict[Series, list[float]] = {}

    def record(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        assert tuple(sorted(tags)) == tuple(sorted(metric.tags)), metric.name
        series = (metric.name, tuple(sorted(tags.items())))
        if metric.kind == "counter":
            assert value > 0
            self.totals[series] += value  # type: ignore[assignment]  # seconds are fractions
        else:
            self.values.setdefault(series, []).append(value)

    def total(self, name: str, **tags: str) -> float:
        return self.totals[name, tuple(sorted(tags.items()))]

    def gauge(self, name: str, **tags: str) -> list[float]:
        return self.values[name, tuple(sorted(tags.items()))]


def metrics_of(runtime: FakeRuntime, topology: Topology, num_questions: int = 6) -> Sink:
    sink = Sink()
    settings = DriverSettings(latent_steps=5)
    scheduler = SharedScheduler(Scheduler(runtime, info=runtime.start(), metrics=sink, clock=runtime.clock))
    batches = plan_batches(make_questions(num_questions), 2)
    with contextlib.suppress(ActorError):
        list(scheduler.run(RunRequest(topology=topology, settings=settings, batches=batches)))
    return sink


def test_turns_are_counted_by_agent() -> None:
    runtime = FakeRuntime()
    sink = metrics_of(runtime, CHAIN)
    assert sink.total("latentmas_turns_total", agent="critic") == 3
    assert sink.total("latentmas_latent_steps_total", agent="planner") == 6 * 5
    assert sink.total("latentmas_latent_steps_total", agent="judger") == 0
    assert sink.total("latentmas_tokens_total", agent="judger", kind="output") > 0
    prompt = sum(len(prompt.messages[0]["content"]) for work in runtime.works[::3] for prompt in work.prompts)
    assert sink.total("latentmas_tokens_total", agent="planner", kind="prompt") == prompt
    assert sink.total("latentmas_phase_seconds_total", agent="planner", phase="think") == 3 * 0.5
    way = {"agent": "critic", "source": "planner", "transport": "fake", "link": "same_process"}
    assert sink.total("latentmas_moved_bytes_total", **way) == (prompt + 6 * 5) * 10
    assert sink.total("latentmas_questions_total", outcome="answered") == 6


def test_the_load_is_recorded_and_is_zero_at_the_end() -> None:
    sink = metrics_of(FakeRuntime(), CHAIN, num_questions=20)
    for agent in ("planner", "critic", "judger"):
        depth = sink.gauge("latentmas_turns_in_flight", agent=agent)
        assert max(depth) >= 1
        assert depth[-1] == 0
    memory = sink.gauge("latentmas_memory_in_flight_bytes", agent="planner")
    assert max(memory) > 0
    assert memory[-1] == 0
    assert max(sink.gauge("latentmas_memory_in_flight_bytes", agent="judger")) == 0
    waiting = sink.gauge("latentmas_batches_waiting")
    assert waiting[0] > waiting[-1] == 0


def test_failed_questions_are_counted_as_such() -> None:
    sink = metrics_of(FakeRuntime(failure=lambda work: TurnError("no") if "q1" in work.question_ids else None), TALK)
    assert sink.total("latentmas_questions_total", outcome="failed") == 1
    assert sink.total("latentmas_questions_total", outcome="answered") == 5


def test_the_load_is_zero_after_a_failed_run() -> None:
    dead = FakeRuntime(failure=lambda work: ActorError("gone") if work.batch == 2 else None)
    sink = metrics_of(dead, CHAIN, num_questions=8)
    assert {values[-1] for values in sink.values.values()} == {0}


def reports(max_batches_in_flight: int) -> tuple[Recorder, Sink, int]:
    """What a run tells of 100 batches of one question, and how many turns it had."""
    runtime, recorder, sink = FakeRuntime(), Recorder(), Sink()
    settings = DriverSettings(latent_steps=5, max_batches_in_flight=max_batches_in_flight)
    scheduler = SharedScheduler(Scheduler(runtime, info=runtime.start(), metrics=sink, clock=lambda: 0.0))
    batches = plan_batches(make_questions(100), 1)
    list(scheduler.run(RunRequest(topology=CHAIN, settings=settings, batches=batches, observer=recorder)))
    return recorder, sink, len(runtime.works)


def test_a_run_with_many_turns_in_flight_reports_now_and_then_and_its_end_in_full() -> None:
    for most in (2, 100):
        recorder, sink, num_turns = reports(most)
        assert (len(recorder.progress) < num_turns / 2) == (most == 100)
        assert recorder.progress[-1].num_done == 100
        assert sink.total("latentmas_turns_total", agent="critic") == 100
        assert sink.total("latentmas_questions_total", outcome="answered") == 100
        assert {values[-1] for values in sink.values.values()} == {0}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_are_those_of_prometheus(metric: Metric) -> None:
    assert metric.name.startswith("latentmas_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.description
