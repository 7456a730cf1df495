"""Models that cache latents or states: what they compute, hand over, merge and refuse."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from latentmas_ray.config import CodecName
from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.eviction import Eviction
from latentmas_ray.engine.recompute import recompute
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.segment_io import InMemorySegments
from latentmas_ray.engine.turn import KeepRule, Prompt, Sampling, TurnRequest
from latentmas_ray.errors import IncompatibleMemoryError, ModelError
from latentmas_ray.memory import (
    Memory,
    MemorySegment,
    MergedLayout,
    Segment,
    SegmentChunk,
    join,
    merge_layout,
)
from latentmas_ray.memory.codec import coded_layout_bytes
from latentmas_ray.memory.wire import decode_chunk, encode_chunk
from latentmas_ray.models.kv_spec import keeps_states
from latentmas_ray.placement import dims_of_config
from latentmas_ray.writing.continuous import ContinuousEngine
from tests.cases.memory import take
from tests.cases.wire import from_bytes, to_bytes
from tests.cases.writing import Written
from tests.numerics.cache_kinds import LATENT, STATES, PlainWithOwnCache, cached, config_of, make_cache_lm
from tests.numerics.turns import assert_close, begin, logits_of, memory, place_chain, prompts_of, think
from tests.numerics.written_cases import STOPS, Case, check, finish, make_cases

PROMPTS = {"a": prompts_of([9, 2, 21], 1), "b": prompts_of([4, 15, 1], 2), "c": prompts_of([5, 3, 8], 3)}
NUM_STEPS = 3
MakeEngine = Callable[[str], Engine]
# One of each kind of layer; the others, whose layers are alike but for details, are slow together.
QUICK = ("deepseek_v3", "longcat_flash", "qwen3_next", "falcon_h1", "jamba")


def families(names: Iterable[str]) -> Any:
    marked = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("family", marked)


every_kind, every_latent, every_state = families([*LATENT, *STATES]), families(LATENT), families(STATES)


@pytest.fixture(scope="module")
def engine_of(tmp_path_factory: pytest.TempPathFactory) -> MakeEngine:
    """A new engine each time, on a model that is made once."""
    folder, lm_of = tmp_path_factory.mktemp("realign"), cache(make_cache_lm)
    return lambda family: Engine(lm_of(family), thoughts="realign", cache_dir=folder)


def chain(engine: Engine) -> dict[str, Segment]:
    segments = {"a": think(engine, PROMPTS["a"], NUM_STEPS)}
    segments["b"] = think(engine, PROMPTS["b"], NUM_STEPS, place_chain(segments))
    return segments


def order(**changes: Any) -> TurnRequest:
    """A latent turn over three questions."""
    return TurnRequest(
        agent="planner",
        batch=0,
        question_ids=("q0", "q1", "q2"),
        prompts=(Prompt(messages=({"role": "user", "content": "Why?"},)),) * 3,
        thinks="latent",
        sampling=Sampling(),
        **{"latent_steps": NUM_STEPS, **changes},
    )


def tensors_of(segment: Segment, question: int) -> list[torch.Tensor]:
    """What every token has in each layer, without states."""
    places = zip(segment.layout().tensors, segment.kv.tensors_of(question), strict=True)
    return [tensor for place, tensor in places if place.spec.state_dims is None]


@every_kind
def test_a_turn_computes_what_transformers_does(engine_of: MakeEngine, family: str) -> None:
    engine = engine_of(family)
    session = begin(engine, PROMPTS["a"])
    session.think(NUM_STEPS)
    segment, logits = session.emit(), logits_of(session).clone()
    for row, prompt in enumerate(PROMPTS["a"]):
        plain = PlainWithOwnCache(engine.lm, engine.rule).feed(prompt).think(NUM_STEPS)
        assert_close(logits[row], plain.logits_V)
        for got, expected in zip(tensors_of(segment, row), cached(plain), strict=True):
            assert_close(got, expected)


@every_kind
def test_a_question_gets_the_same_alone_and_next_to_others(engine_of: MakeEngine, family: str) -> None:
    engine = engine_of(family)
    together = begin(engine, PROMPTS["a"])
    together.think(NUM_STEPS)
    logits = logits_of(together).clone()
    for row, prompt in enumerate(PROMPTS["a"]):
        session = begin(engine, [prompt])
        session.think(NUM_STEPS)
        assert_close(logits_of(session)[0], logits[row])


@every_kind
def test_a_reader_gets_what_it_would_compute(engine_of: MakeEngine, family: str) -> None:
    """Through the wire, and in the cache of the writer."""
    engine = engine_of(family)
    segments = chain(engine)
    here = logits_of(begin(engine, PROMPTS["c"], place_chain(segments))).clone()
    arrived = {name: from_bytes(to_bytes(one), expected=engine.lm.spec) for name, one in segments.items()}
    session = begin(engine_of(family), PROMPTS["c"], place_chain(arrived))
    assert torch.equal(logits_of(session), here) or (logits_of(session) - here).abs().max() < 1e-5
    for row in range(3):
        plain = PlainWithOwnCache(engine.lm, engine.rule)
        for segment in segments.values():
            plain.recompute(segment.recompute_inputs.take([row]))
        plain.feed(PROMPTS["c"][row])
        assert_close(logits_of(session)[row], plain.logits_V)


@every_kind
def test_a_reader_that_continues_in_the_cache_changes_nothing(engine_of: MakeEngine, family: str) -> None:
    """The first agent's memory is still in the cache when the second one continues there."""
    first = engine_of(family)
    copied = think(first, PROMPTS["a"], NUM_STEPS)
    bytes_before = copied.kv.buffer().clone()
    second = engine_of(family)
    lazy = think(second, PROMPTS["a"], NUM_STEPS)
    think(second, PROMPTS["b"], NUM_STEPS, place_chain({"a": lazy}))
    assert torch.equal(lazy.kv.buffer(), bytes_before)


@every_kind
def test_recomputed_memory_is_the_memory(engine_of: MakeEngine, family: str) -> None:
    engine = engine_of(family)
    segments = chain(engine)
    kept = {name: [one.clone() for one in segments[name].kv.tensors_of(1)] for name in segments}
    alone = {
        name: SegmentChunk.without_kv(segment.meta, segment.recompute_inputs) for name, segment in segments.items()
    }
    again = recompute(engine, [memory("a", "b")], _Inputs(alone), {"a", "b"}, ["q0", "q1", "q2"])
    for name, tensors in kept.items():
        for got, expected in zip(again[name].kv.tensors_of(1), tensors, strict=True):
            assert_close(got, expected)


class _Inputs(InMemorySegments):
    """Segments that arrive as recompute inputs."""

    def __init__(self, chunks: dict[str, SegmentChunk]) -> None:
        super().__init__({})
        self._chunks = chunks

    def segments(self):  # type: ignore[no-untyped-def]
        return {name: chunk.meta for name, chunk in self._chunks.items()}

    def chunks_of(self, agent: str):  # type: ignore[no-untyped-def]
        return iter([self._chunks[agent]])


@every_kind
def test_the_bytes_of_a_token_are_those_that_are_sent(engine_of: MakeEngine, family: str) -> None:
    engine = engine_of(family)
    spec, segment = engine.lm.spec, think(engine, PROMPTS["a"], NUM_STEPS)
    num_tokens = sum(map(len, PROMPTS["a"])) + 3 * NUM_STEPS
    expected = num_tokens * spec.bytes_per_token + 3 * spec.state_bytes
    _, body = encode_chunk(SegmentChunk.whole(segment))
    assert body.numel() == segment.kv.buffer().numel() == segment.meta.num_bytes == expected
    assert (spec.state_bytes > 0) == (family in STATES)


@every_kind
def test_a_plan_knows_the_bytes_of_a_token(engine_of: MakeEngine, family: str) -> None:
    """From the configuration alone."""
    spec, config = engine_of(family).lm.spec, config_of(family)
    assert dims_of_config(config.to_dict(), family).in_dtype("float32").bytes_per_token == spec.bytes_per_token
    assert keeps_states(config) == spec.has_states


@every_kind
def test_two_chunks_are_one_segment(engine_of: MakeEngine, family: str) -> None:
    """States are in the last one."""
    engine = engine_of(family)
    whole = [one.clone() for one in think(engine, PROMPTS["a"], NUM_STEPS).kv.tensors_of(2)]
    session = begin(engine, PROMPTS["a"])
    first = session.emit_chunk(num_coming=NUM_STEPS)
    session.think(NUM_STEPS)
    segment = join([first, session.emit_chunk()])
    for got, expected in zip(segment.kv.tensors_of(2), whole, strict=True):
        assert torch.equal(got, expected)


@every_kind
@pytest.mark.parametrize("codec", ["bf16", "int8", "int4"])
def test_a_codec_loses_little_and_says_how_much(engine_of: MakeEngine, family: str, codec: CodecName) -> None:
    engine = engine_of(family)
    segment = think(engine, PROMPTS["a"], NUM_STEPS)
    header, body = encode_chunk(SegmentChunk.whole(segment), codec=codec)
    assert body.numel() == coded_layout_bytes(segment.layout(), codec) < segment.meta.num_bytes
    chunk = decode_chunk(header, body, expected=engine.lm.spec)
    bound = {"bf16": 0.005, "int8": 0.02, "int4": 0.2}[codec]
    for place, got, expected in zip(
        segment.layout().tensors, chunk.kv.tensors_of(2), segment.kv.tensors_of(2), strict=True
    ):
        if place.spec.state_dims is not None:
            assert torch.equal(got, expected)
        else:
            assert 0 < (got - expected).norm() / expected.norm() < bound
    assert chunk.codec_stats is not None
    assert 0 < chunk.codec_stats.relative_error < bound


@every_kind
def test_a_text_does_not_depend_on_the_others(engine_of: MakeEngine, family: str) -> None:
    """Rows leave the batch at different steps, and the last one takes their place."""
    engine = engine_of(family)
    engine.lm.chat.stop_ids = engine.lm.chat.stop_ids | STOPS
    sampling = Sampling(max_new_tokens=12, temperature=1.0)
    prompts = prompts_of([7, 3, 12, 5, 9], 8)
    session = begin(engine, prompts)
    together = session.decode(sampling, "answerer")
    assert len({len(output) for output in together}) > 1
    for row, prompt in enumerate(prompts):
        alone = begin(engine, [prompt])
        alone.question_ids = [f"q{row}"]
        assert alone.decode(sampling, "answerer")[0] == together[row]


@every_kind
def test_a_saved_memory_is_read_again(engine_of: MakeEngine, family: str, tmp_path: Path) -> None:
    engine = engine_of(family)
    segments = {name: take(segment, [0]) for name, segment in chain(engine).items()}
    prompt = PROMPTS["c"][:1]
    expected = logits_of(begin(engine, prompt, place_chain(segments))).clone()
    kept = {name: MemorySegment.from_chunks([SegmentChunk.whole(one)]) for name, one in segments.items()}
    saved = Memory(model=family, question="?", reads=(memory("a", "b"),), segments=kept, texts={})
    saved.save(tmp_path / "memory.safetensors")
    again = Memory.load(tmp_path / "memory.safetensors")
    assert again == saved
    read = {name: join([one.to_chunk()]) for name, one in again.segments.items()}
    assert_close(logits_of(begin(engine, prompt, place_chain(read))), expected)


@every_latent
def test_a_reader_of_branches_sees_one_sequence(engine_of: MakeEngine, family: str) -> None:
    """The latents stay as they are, and the rotary parts are moved."""
    engine = engine_of(family)
    names = ("a", "b", "c")
    segments = {name: think(engine, prompts_of([6 + index], index), 3) for index, name in enumerate(names)}
    prompt = prompts_of([7], 9)
    merged = logits_of(begin(engine, prompt, merge_layout([memory(name) for name in names], segments, 1))).clone()
    placed, position = {}, 0
    for name, segment in segments.items():
        session = engine.open(["q"], num_slots=64)
        session.absorb(MergedLayout((), (position,)))
        ids_T = segment.recompute_inputs.token_ids_T
        session.prefill([ids_T[ids_T >= 0].tolist()])
        session.think(3)
        placed[name] = session.emit()
        position += segment.recompute_inputs.lengths[0]
    assert_close(merged, logits_of(begin(engine, prompt, place_chain(placed))))


@every_state
def test_branches_with_states_are_not_merged(engine_of: MakeEngine, family: str) -> None:
    engine = engine_of(family)
    segments = {name: think(engine, prompts_of([6], index), 2) for index, name in enumerate("ab")}
    with pytest.raises(IncompatibleMemoryError, match=r"the memories of a and b are parallel.*keeps a state") as caught:
        merge_layout([memory("a"), memory("b")], segments, 1)
    assert "\n" not in str(caught.value)
    merge_layout([memory("a"), memory("a", "b")], segments, 1)  # b continues a


@every_latent
def test_an_eviction_keeps_the_latents_of_the_positions_that_it_chooses(engine_of: MakeEngine, family: str) -> None:
    engine = engine_of(family)
    whole = [one.clone() for one in think(engine, PROMPTS["a"], NUM_STEPS).kv.tensors_of(2)]
    work = order(keep=KeepRule(share=0.5))
    session = engine.open(["q0", "q1", "q2"], num_slots=64)
    Eviction(session, work, PROMPTS["a"]).prefill()
    session.think(NUM_STEPS)
    segment = session.emit()
    assert segment.meta.kv_lengths == (5 + 3, 1 + 3, 11 + 3)
    assert segment.meta.kept is not None
    tokens = segment.meta.kept_tokens([0] * 3, segment.lengths)
    assert tokens is not None
    for place, got, all_HTD in zip(segment.layout().tensors, segment.kv.tensors_of(2), whole, strict=True):
        assert torch.equal(got, all_HTD[:, tokens[place.layer][2]])


@every_state
def test_a_turn_that_takes_its_memory_apart_is_refused(engine_of: MakeEngine, family: str) -> None:
    runner = TurnRunner(engine_of(family))
    refused = {
        "a part of a turn": order(hands_over="prompt"),
        "a guard": order(guard="drop"),
        "computed together": order(stop_at=0.9, fills_steps=True),
        "a trace": order(traced=frozenset({"q0"})),
    }
    for part, work in refused.items():
        with pytest.raises(ModelError, match=f"keep states.*{part}") as caught:
            runner.run(work, {})
        assert "\n" not in str(caught.value)


@every_kind
def test_texts_that_are_written_continuously_are_those_of_a_static_batch(
    engine_of: MakeEngine, family: str, tmp_path: Path
) -> None:
    """Behind memory and without; more questions than run at a time, and one that has to leave for others."""
    lm = engine_of(family).lm
    lm.chat.stop_ids = lm.chat.stop_ids | STOPS
    kinds = ("none", "all") if family in STATES else ("none", "all", "latents", "branches")
    cases = make_cases(lm, tmp_path, [(kind, number) for kind in kinds for number in range(2)])
    engine = ContinuousEngine(lm, max_running=3)
    waiting = list(cases.values())
    started, written = list[Case](), dict[str, Written]()
    for case in waiting[:3]:
        engine.start(case.request)
        started.append(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_write_tokens", _out_of_memory)
        engine.step()  # the youngest leaves the cache, and comes back with all that it had there
    written.update(finish(engine, started))
    for case in waiting[3:]:
        engine.start(case.request)
        written.update(finish(engine, [case]))
    check(written, cases)


def _out_of_memory() -> None:
    raise torch.OutOfMemoryError("out of memory")
