"""What a guard does to a turn: what is handed over is what a run without the bad thoughts would hand over."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch

from latentmas_ray.engine.diagnostics.alarms import AlarmThresholds, find_alarms
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import Sampling, SentAs, TurnRequest, TurnResult
from latentmas_ray.memory import Segment, SegmentChunk, SegmentMeta, join
from latentmas_ray.topology.agent import AgentMemory, HandsOver
from tests.numerics.conftest import MakeEngine
from tests.numerics.families import make_lm
from tests.numerics.test_logit_lens import NUM_STEPS, QUESTIONS, order

SAMPLED = Sampling(max_new_tokens=6, temperature=0.8)


@pytest.fixture
def runner(engine_of: MakeEngine) -> TurnRunner:
    """Of a model whose embedding of `Z` is not a number: a prompt with it cannot be read, thoughts on others can."""
    engine = engine_of("qwen3")
    engine.lm = make_lm("qwen3")
    (token,) = engine.lm.chat.tokenizer("Z")["input_ids"]
    engine.lm.model.get_input_embeddings().weight.data[token] = torch.nan
    return TurnRunner(engine)


def with_prompts(work: TurnRequest, texts: Sequence[str]) -> TurnRequest:
    messages = [({"role": "user", "content": text},) for text in texts]
    prompts = tuple(replace(prompt, messages=one) for prompt, one in zip(work.prompts, messages, strict=True))
    return replace(work, prompts=prompts)


def think(runner: TurnRunner, work: TurnRequest) -> tuple[Segment, TurnResult]:
    chunk, report = runner.run(work, {})
    assert chunk is not None
    return join([chunk]), report


@pytest.fixture
def bad_thoughts(runner: TurnRunner, monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    """The questions whose thoughts are beyond the limits now: those with the larger norms."""
    _, report = think(runner, order("a", traced=QUESTIONS))
    norms = [max(thought.norm for thought in report.traces[name].thoughts) for name in QUESTIONS]
    limit = sorted(norms)[-1] * 0.999999
    found = partial(find_alarms, limits=AlarmThresholds(norm=(0.0, limit)))
    monkeypatch.setattr("latentmas_ray.engine.diagnostics.guard.find_alarms", found)
    return tuple(row for row, norm in enumerate(norms) if norm > limit)


def test_a_guard_that_only_warns_changes_nothing(runner: TurnRunner, bad_thoughts: tuple[int, ...]) -> None:
    plain, silent = think(runner, order("a"))
    plain_kv = plain.kv_LCHTD.clone()
    warned, report = think(runner, order("a", guard="warn"))
    assert torch.equal(warned.kv_LCHTD, plain_kv)
    assert silent.alarms == ()
    assert [bool(alarms) for alarms in report.alarms] == [row in bad_thoughts for row in range(3)]
    assert all(alarm.kind == "norm" for row in bad_thoughts for alarm in report.alarms[row])


@pytest.mark.parametrize("hands_over", ["all", "latents", "prompt"])
@pytest.mark.parametrize("transfer_mode", ["kv", "recompute"])
def test_bad_thoughts_are_not_handed_over(
    runner: TurnRunner, bad_thoughts: tuple[int, ...], hands_over: HandsOver, transfer_mode: SentAs
) -> None:
    whole, _ = think(runner, order("a", hands_over=hands_over))
    whole.kv_LCHTD  # noqa: B018  before the cache is used again
    dropped, report = think(runner, order("a", hands_over=hands_over, guard="drop", transfer_mode="kv"))
    assert len(bad_thoughts) == 1
    for row in range(3):
        cut = row in bad_thoughts and hands_over != "prompt"
        kept = 0 if hands_over == "latents" else dropped.recompute_inputs.lengths[row] - NUM_STEPS
        assert dropped.lengths[row] == (kept if cut else whole.lengths[row])
        assert torch.equal(dropped.kv_of(row), whole.kv_of(row)[:, :, :, : dropped.lengths[row]])
    assert dropped.turn_ends == whole.turn_ends  # positions stay what they were
    assert report.segment_bytes == dropped.meta.bytes_per_question


@pytest.mark.parametrize("transfer_mode", ["kv", "recompute"])
def test_a_reader_of_a_prompt_alone_cannot_tell_why_it_is_alone(
    runner: TurnRunner, bad_thoughts: tuple[int, ...], transfer_mode: SentAs
) -> None:
    reader = order("c", "text", reads=(AgentMemory("a"),), sampling=SAMPLED)
    if transfer_mode == "recompute":
        reader = replace(reader, recomputed=frozenset("a"))
    answers = {}
    for name, changes in {"drop": {"guard": "drop"}, "prompt": {"hands_over": "prompt"}, "all": {}}.items():
        chunk, _ = runner.run(order("a", transfer_mode=transfer_mode, **changes), {})
        assert chunk is not None
        answers[name] = runner.run(reader, _Given(chunk))[1].output_token_ids
    for row in range(3):
        assert answers["drop"][row] == answers["prompt" if row in bad_thoughts else "all"][row]


class _Given:
    """A chunk that is all of agent a's segment."""

    def __init__(self, chunk: SegmentChunk) -> None:
        self._chunk = chunk

    def segments(self) -> dict[str, SegmentMeta]:
        return {"a": self._chunk.meta}

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        yield "a", self._chunk

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        yield self._chunk


def test_what_an_agent_writes_instead_is_what_a_text_agent_writes(
    runner: TurnRunner, bad_thoughts: tuple[int, ...]
) -> None:
    _, written = runner.run(order("a", "text", sampling=SAMPLED), {})
    segment, report = think(runner, order("a", guard="text", sampling=SAMPLED, traced=QUESTIONS))
    assert list(report.fallbacks) == [QUESTIONS[row] for row in bad_thoughts]
    for row in range(3):
        if row in bad_thoughts:
            assert report.fallbacks[QUESTIONS[row]] == written.texts[row]
            assert report.output_token_ids[row] == written.output_token_ids[row]
            assert segment.lengths[row] == segment.recompute_inputs.lengths[row] == 0
            assert report.traces[QUESTIONS[row]].text == written.texts[row]
        else:
            assert report.output_token_ids[row] == ()
            assert segment.lengths[row] > NUM_STEPS
            assert report.traces[QUESTIONS[row]].text is None


@pytest.mark.parametrize("steps", [0, NUM_STEPS])
def test_a_prompt_that_cannot_be_read_is_not_handed_over_at_all(runner: TurnRunner, steps: int) -> None:
    texts = ("fine?", "Z?", "good?")
    segment, report = think(runner, with_prompts(order("a", guard="drop", latent_steps=steps), texts))
    assert [alarms[0].kind if alarms else None for alarms in report.alarms] == [None, "not-finite", None]
    assert segment.lengths[1] == segment.recompute_inputs.lengths[1] == 0
    assert bool(segment.kv_LCHTD.isfinite().all())
    reader = order("c", "text", reads=(AgentMemory("a"),), sampling=SAMPLED)
    _, beside = runner.run(reader, {"a": segment})
    _, alone = runner.run(replace(reader, reads=()), {})
    assert beside.output_token_ids[1] == alone.output_token_ids[1]
    garbage, _ = think(runner, with_prompts(order("a", latent_steps=steps), texts))
    assert not bool(garbage.kv_of(1).isfinite().all())


def test_a_chain_goes_on_behind_what_was_left_out(runner: TurnRunner, bad_thoughts: tuple[int, ...]) -> None:
    """Whether memory lies in the cache or comes as a copy."""
    chain = (AgentMemory("b", (AgentMemory("a"),)),)
    outputs = []
    for is_copied in (False, True):
        first, _ = think(runner, order("a", guard="drop"))
        if is_copied:
            first.kv_LCHTD  # noqa: B018
        chunk, _ = runner.run(order("b", reads=chain[0].reads), {"a": first})
        assert chunk is not None
        second = join([chunk])
        if is_copied:
            second.kv_LCHTD  # noqa: B018
        _, report = runner.run(order("c", "text", reads=chain), {"a": first, "b": second})
        outputs.append(report.output_token_ids)
    assert outputs[0] == outputs[1]


def test_a_guard_projects_nothing(runner: TurnRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmas_ray.models.LanguageModel.logits", None)
    assert think(runner, order("a", guard="drop"))[1].alarms == ((), (), ())
