"""Questions that stop thinking when their thoughts have converged: what they keep, what readers make of it, what is
reported. Random models repeat their thoughts after a few steps, each question at another one."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from latentmas_ray.actors.execute_turn import execute_turn, receive_kept
from latentmas_ray.actors.receiver import IncomingSegment, SentChunk
from latentmas_ray.engine import convergence
from latentmas_ray.engine.convergence import MOST_SWEEPS, NUM_STILL, StopRule, likeness
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import Sampling, TurnRequest, TurnResult
from latentmas_ray.memory import LATENT, Memory, Segment, join
from latentmas_ray.memory.wire import decode_chunk, encode_chunk
from latentmas_ray.parallel.ranks import ALONE
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.transport import Loopback
from tests.numerics.conftest import MakeEngine
from tests.numerics.plain import Plain
from tests.numerics.test_turn_runner import QUESTIONS, order, turns_of
from tests.numerics.turns import assert_close, memory

MOST = 30
THRESHOLD = 0.999
STOPS: dict[str, Any] = {"latent_steps": MOST, "stop_at": THRESHOLD}


@pytest.fixture
def runner(engine_of: MakeEngine) -> TurnRunner:
    return TurnRunner(engine_of("neox"))


def run(
    runner: TurnRunner, work: TurnRequest, segments: dict[str, Segment] | None = None
) -> tuple[Segment, TurnResult]:
    chunk, result = runner.run(work, segments or {})
    assert chunk is not None
    return join([chunk]), result


def thoughts_of(segment: Segment, row: int) -> Tensor:
    return segment.recompute_inputs.take([row]).latents_NE


def steps_until(thoughts_NE: Tensor) -> int:
    """The number of thoughts that a question keeps: those before the second of two that are like the one before."""
    alike = [float(likeness(b[None], a[None])) >= THRESHOLD for a, b in pairwise(thoughts_NE)]
    return next((index + 1 for index, pair in enumerate(pairwise(alike), 1) if all(pair)), len(thoughts_NE))


def test_a_question_keeps_the_thoughts_before_they_repeat(runner: TurnRunner) -> None:
    full, _ = run(runner, order("planner", latent_steps=MOST))
    short, result = run(runner, order("planner", **STOPS))
    counts = [steps_until(thoughts_of(full, row)) for row in range(len(QUESTIONS))]
    assert len(set(counts)) > 1  # rows leave the step one after another
    assert max(counts) < MOST
    assert [result.steps_of(row) for row in range(len(QUESTIONS))] == counts
    assert (result.total_steps, result.latent_steps) == (sum(counts), max(counts))
    for row, count in enumerate(counts):
        left = MOST - count
        assert short.lengths[row] == full.lengths[row] - left
        assert_close(thoughts_of(short, row), thoughts_of(full, row)[:count])
        assert_close(short.kv_of(row), full.kv_of(row)[:, :, :, :-left])
        assert result.convergence[row].allowed_steps == MOST
    assert result.memory_tokens == short.lengths


def test_a_question_alone_stops_where_it_stops_in_a_batch(runner: TurnRunner) -> None:
    together, result = run(runner, order("planner", **STOPS))
    for row, name in enumerate(QUESTIONS):
        work = order("planner", **STOPS)
        alone, own = run(runner, replace(work, question_ids=(name,), prompts=work.prompts[row : row + 1]))
        assert own.steps_of(0) == result.steps_of(row)
        assert_close(alone.kv_of(0), together.kv_of(row))


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("fills", [False, True])
def test_a_reader_continues_after_each_questions_last_thought(runner: TurnRunner, fills: bool, closes: bool) -> None:
    """Two that think read one another, and a text agent both: as transformers alone computes it from their inputs."""
    first, _ = run(runner, order("a", fills_steps=fills, close_turn=closes, **STOPS))
    second, _ = run(runner, order("b", reads=(memory("a"),), fills_steps=fills, **STOPS), {"a": first})
    reader = order("judger", "text", reads=(memory("a", "b"),))
    _, result = runner.run(reader, {"a": first, "b": second})
    assert second.turn_starts == first.turn_ends
    realign = runner.engine.open(QUESTIONS, num_slots=8).realign
    for row, prompt in enumerate(reader.prompts):
        ids = runner.engine.lm.chat.encode(prompt.messages, prompt.template, prompt.suffix)
        plain = Plain(runner.engine.lm, realign)
        for segment in (first, second):
            plain.recompute(segment.recompute_inputs.take([row]))
        assert list(result.output_token_ids[row]) == plain.feed(ids).decode(5)


def test_thoughts_that_are_left_are_computed_together(runner: TurnRunner) -> None:
    full, _ = run(runner, order("planner", latent_steps=MOST))
    filled, result = run(runner, order("planner", fills_steps=True, **STOPS))
    assert filled.meta == full.meta
    assert turns_of(filled) == turns_of(full)
    for row in range(len(QUESTIONS)):
        singles = steps_until(thoughts_of(full, row))
        assert singles < result.steps_of(row) <= singles + MOST_SWEEPS < MOST
        assert result.convergence[row].thoughts == MOST
        # Few sweeps are as good as the threshold from which they began. The next test shows that enough are exact.
        assert float(likeness(thoughts_of(filled, row), thoughts_of(full, row)).min()) >= 0.998
        assert_close(thoughts_of(filled, row)[:singles], thoughts_of(full, row)[:singles])


def test_sweeps_settle_on_the_sequence(engine_of: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even from thoughts that are far from converged: every sweep makes one more exact."""
    runner = TurnRunner(engine_of("qwen3"))
    full, _ = run(runner, order("planner", latent_steps=8))
    monkeypatch.setattr(convergence, "MOST_SWEEPS", 8)
    monkeypatch.setattr(convergence, "SETTLED", 2.0)
    filled, result = run(runner, order("planner", latent_steps=8, stop_at=-1.0, fills_steps=True))
    assert [result.steps_of(row) for row in range(len(QUESTIONS))] == [2 + 8] * len(QUESTIONS)
    for row in range(len(QUESTIONS)):
        assert_close(filled.kv_of(row), full.kv_of(row))


class Line:
    """What a turn sends, read by another turn on the other side of a wire."""

    def __init__(self, *, overlaps: bool) -> None:
        self.transport = Loopback()
        self.sent: list[SentChunk] = []
        self.overlaps = overlaps

    def think(self, runner: TurnRunner, work: TurnRequest) -> TurnResult:
        _, result = execute_turn(runner, self.transport, work, [], self.sent.append, overlaps=self.overlaps)
        return result

    def read(self, runner: TurnRunner, work: TurnRequest) -> TurnResult:
        first, *later = self.sent
        incoming = IncomingSegment("a", first, [lambda sent=sent: sent for sent in later])  # type: ignore[misc]
        return execute_turn(runner, self.transport, work, [incoming])[1]


@pytest.mark.parametrize("transfer_mode", ["kv", "recompute"])
def test_memory_that_leaves_while_its_agent_thinks_is_read_with_its_true_lengths(
    runner: TurnRunner, transfer_mode: Any
) -> None:
    work = order("a", transfer_mode=transfer_mode, **STOPS)
    recomputed = frozenset({"a"} if transfer_mode == "recompute" else ())
    reader = order("judger", "text", reads=(AgentMemory("a"),), recomputed=recomputed)
    results = []
    for overlaps in (True, False):
        line = Line(overlaps=overlaps)
        line.think(runner, work)
        results.append(line.read(runner, reader))
        first = line.sent[0].payload.chunk if hasattr(line.sent[0].payload, "chunk") else line.sent[0].payload
        assert first.meta.is_open is overlaps
        assert len(line.sent) == 1 + overlaps
    assert results[0].output_token_ids == results[1].output_token_ids
    assert results[0].memory_tokens == results[1].memory_tokens


def test_an_open_segment_is_kept_with_its_true_lengths(runner: TurnRunner) -> None:
    work = order("a", keeps_memory=True, **STOPS)
    line = Line(overlaps=True)
    result = line.think(runner, work)
    kept_chunks = receive_kept(result.kept, line.transport.authenticator, "")
    whole, _ = run(runner, order("a", **STOPS))
    for row in range(len(QUESTIONS)):
        kept = Memory.from_wire(
            {"a": kept_chunks}, row, model="m", question="", reads=(AgentMemory("a"),), texts={}
        ).segments["a"]
        assert kept.meta == whole.meta.take([row])
        assert kept.num_latent_thoughts == result.steps_of(row)


def test_an_open_chunk_survives_the_wire(runner: TurnRunner) -> None:
    line = Line(overlaps=True)
    line.think(runner, order("a", **STOPS))
    for sent, is_open in zip(line.sent, (True, False), strict=True):
        chunk = sent.payload
        assert decode_chunk(*encode_chunk(chunk)).meta == chunk.meta
        assert chunk.meta.is_open is is_open


def test_traces_and_alarms_are_about_the_thoughts_that_were_thought(runner: TurnRunner) -> None:
    work = order("a", traced=frozenset(QUESTIONS), guard="warn", **STOPS)
    _, result = runner.run(work, {})
    assert {len(result.traces[name].thoughts) for name in QUESTIONS} == {
        result.steps_of(row) for row in range(len(QUESTIONS))
    }
    assert not any(alarm.kind == "repetition" for found in result.alarms for alarm in found)
    _, fixed = runner.run(replace(work, stop_at=None), {})
    for row, found in enumerate(fixed.alarms):
        assert "repetition" in {alarm.kind for alarm in found}
        assert fixed.convergence[row].is_repeating()
        assert fixed.convergence[row].repeats_from() == result.steps_of(row) - NUM_STILL + 1
        assert fixed.convergence[row].cosines[: result.steps_of(row) - 1] == result.convergence[row].cosines


def test_the_told_cosines_are_those_of_the_thoughts(runner: TurnRunner) -> None:
    segment, result = run(runner, order("a", latent_steps=6))
    for row in range(len(QUESTIONS)):
        thoughts_NE = thoughts_of(segment, row)
        expected = [float(likeness(b[None], a[None])) for a, b in pairwise(thoughts_NE)]
        assert list(result.convergence[row].cosines) == pytest.approx(expected, abs=1e-4)
        assert result.convergence[row].allowed_steps is None
    _, none = run(runner, order("a", latent_steps=0))
    assert [one.cosines for one in none.convergence] == [()] * len(QUESTIONS)


def test_text_has_no_convergence(runner: TurnRunner) -> None:
    _, result = runner.run(order("judger", "text", sampling=Sampling(max_new_tokens=1)), {})
    assert result.convergence == ()
    assert result.total_steps == 0


def test_a_rule_with_rows_that_stop_at_different_steps() -> None:
    def step(*angles: float) -> Tensor:
        return torch.tensor([[torch.tensor(a).cos(), torch.tensor(a).sin()] for a in angles])

    rule = StopRule(0.999, 3, ALONE)
    rule.keep(step(0.0, 0.0, 0.0))
    assert rule.rows == [0, 1, 2]
    rule.keep(step(0.0, 1.0, 0.0))
    assert rule.rows == [0, 1, 2]
    kept = rule.keep(step(0.0, 1.0, 1.0))  # row 2 has moved again
    assert rule.rows == [1, 2]
    assert_close(kept, step(1.0, 1.0))
    assert_close(rule.keep(step(1.0, 1.0)), step(1.0))
    assert rule.rows == [2]
    assert len(rule.keep(step(1.0))) == 0
    assert rule.rows == []


def test_a_thought_that_is_not_finite_never_converges() -> None:
    rule = StopRule(0.5, 1, ALONE)
    for _ in range(4):
        rule.keep(torch.full((1, 2), torch.nan))
    assert rule.rows == [0]


def test_a_model_whose_thoughts_go_on_thinks_all_steps(engine_of: MakeEngine) -> None:
    engine: Engine = engine_of("qwen3")
    segment, result = run(TurnRunner(engine), order("a", latent_steps=3, stop_at=0.999))
    assert [result.steps_of(row) for row in range(len(QUESTIONS))] == [3] * 3
    assert all(ids.tolist().count(LATENT) == 3 for ids in segment.recompute_inputs.token_ids_T.split(segment.lengths))
