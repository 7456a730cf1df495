"""The writer on our own engine gives what a turn of the same questions gives in one static batch."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.segment_io import InMemorySegments
from latentmas_ray.engine.turn import Sampling, TurnRequest, TurnResult
from latentmas_ray.errors import IncompatibleMemoryError
from latentmas_ray.memory import Segment, SegmentChunk
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.writing.continuous import ContinuousEngine
from latentmas_ray.writing.writer import Writer
from tests.cases.memory import take
from tests.numerics.conftest import MakeEngine
from tests.numerics.test_turn_runner import latent, order
from tests.numerics.turns import memory

SAMPLED = Sampling(temperature=1.3, top_p=0.95, max_new_tokens=12, seed=5)
PARALLEL = (AgentMemory("left"), AgentMemory("right"))


@pytest.fixture
def runner(engine_of: MakeEngine) -> TurnRunner:
    return TurnRunner(engine_of("qwen3"))


def write(runner: TurnRunner, *turns: tuple[TurnRequest, dict[str, Segment]], max_running: int = 2) -> list[TurnResult]:
    """All turns at the same time, each from a thread of its own."""
    with ThreadPoolExecutor(1) as owner, ThreadPoolExecutor(len(turns)) as callers:
        engine = ContinuousEngine(runner.engine.lm, max_running=max_running)
        writer = Writer(engine, owner.submit, recompute=runner.recompute)

        def call(number: int) -> TurnResult:
            work, segments = turns[number]
            return writer.start(number, writer.receive(work, InMemorySegments(segments))).result()

        return list(callers.map(call, range(len(turns))))


def assert_same(got: TurnResult, static: TurnResult) -> None:
    for name in ("prompt_tokens", "output_token_ids", "texts", "cut_off", "memory_tokens"):
        assert getattr(got, name) == getattr(static, name), name
    assert got.failed == {}
    assert static.output_token_ids


@pytest.mark.parametrize("sampling", [Sampling(max_new_tokens=12), SAMPLED])
@pytest.mark.parametrize("hands_over", ["all", "prompt", "latents", "latents+sink"])
def test_turns_of_a_chain(runner: TurnRunner, hands_over: Any, sampling: Sampling) -> None:
    planner = order("planner", hands_over=hands_over)
    segments = {"planner": latent(runner, planner)}
    segments["critic"] = latent(runner, order("critic", hands_over=hands_over, reads=(memory("planner"),)), segments)
    for segment in segments.values():
        segment.kv.buffer()
    works = [
        order("judger", "text", sampling=sampling, reads=(memory("planner", "critic"),)),
        order("other", "text", sampling=sampling, reads=(memory("planner"),)),
        order("alone", "text", sampling=sampling),
    ]
    reads = [segments, {"planner": segments["planner"]}, {}]
    expected = [runner.run(work, read)[1] for work, read in zip(works, reads, strict=True)]
    for got, static in zip(write(runner, *zip(works, reads, strict=True)), expected, strict=True):
        assert_same(got, static)


def test_parallel_branches_are_merged(runner: TurnRunner) -> None:
    segments = {name: latent(runner, order(name, suffix=" " * len(name))) for name in ("left", "right")}
    for segment in segments.values():
        segment.kv.buffer()
    work = order("judger", "text", sampling=SAMPLED, reads=PARALLEL)
    (got,) = write(runner, (work, segments))
    assert_same(got, runner.run(work, segments)[1])


def test_recompute_inputs_are_computed_while_others_are_written(runner: TurnRunner) -> None:
    planner = latent(runner, order("planner"))
    planner.kv.buffer()
    segments = {"planner": planner}
    work = order("judger", "text", sampling=SAMPLED, reads=(memory("planner"),))
    static = runner.run(work, segments)[1]
    inputs = SegmentChunk.without_kv(planner.meta, planner.recompute_inputs)

    class Arriving(InMemorySegments):
        """Recompute inputs alone."""

        def segments(self) -> Any:
            return {"planner": planner.meta}

        def chunks_of(self, agent: str) -> Any:
            yield inputs

    recomputed = replace(work, recomputed=frozenset({"planner"}))
    with ThreadPoolExecutor(1) as owner:
        writer = Writer(ContinuousEngine(runner.engine.lm, max_running=2), owner.submit, recompute=runner.recompute)
        other = writer.start(0, writer.receive(work, InMemorySegments(segments)))
        got = writer.start(1, writer.receive(recomputed, Arriving({}))).result()
    assert_same(got, static)
    assert_same(other.result(), static)


def test_memory_of_another_model_is_refused_before_anything_starts(runner: TurnRunner, engine_of: MakeEngine) -> None:
    foreign = latent(TurnRunner(engine_of("llama")), order("planner"))
    with pytest.raises(IncompatibleMemoryError):
        write(runner, (order("judger", "text", reads=(memory("planner"),)), {"planner": foreign}))


def test_other_memory_gives_another_text(runner: TurnRunner) -> None:
    """Otherwise the tests above would show nothing."""
    planner = latent(runner, order("planner"))
    planner.kv.buffer()
    work = order("judger", "text", sampling=SAMPLED, reads=(memory("planner"),))
    wrong = take(planner, [1, 2, 0])
    got, other = write(runner, (work, {"planner": planner}), (work, {"planner": wrong}))
    assert got.output_token_ids != other.output_token_ids
