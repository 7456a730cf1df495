"""In one process a segment stays in the cache that computed it, and nobody can tell."""

import gc
import pickle
import weakref

import pytest
import torch
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.lazy_segment import LazyKV
from latentmas_ray.engine.session import Session
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import InMemoryKV, MergedLayout, Segment, merge_layout
from tests.cases.wire import from_bytes, to_bytes
from tests.numerics.conftest import MakeEngine
from tests.numerics.turns import Prompts, assert_close, begin, logits_of, memory, place_chain, prompts_of, think

PROMPTS = [prompts_of([9, 2, 21], 1), prompts_of([4, 15, 1], 2), prompts_of([5, 3, 8], 3)]


@pytest.fixture
def engine(engine_of: MakeEngine) -> Engine:
    return engine_of("qwen3")


def go_on(engine: Engine, prompts: Prompts, placement: MergedLayout, *, num_slots: int = 200) -> Session:
    """A session that reads `placement` where it is, if it can."""
    session = engine.open([f"q{row}" for row in range(len(prompts))], num_slots=num_slots, reads=placement)
    session.absorb(placement)
    session.prefill(prompts)
    return session


def chain(engine: Engine) -> dict[str, Segment]:
    """Two agents, the second of which goes on behind the first."""
    segments: dict[str, Segment] = {"a": think(engine, PROMPTS[0], 3)}
    session = go_on(engine, PROMPTS[1], place_chain(segments))
    session.think(3)
    segments["b"] = session.emit()
    return segments


def is_resident(segment: Segment) -> bool:
    return isinstance(segment.kv, LazyKV) and not segment.kv.is_copied


def copied(segments: dict[str, Segment]) -> dict[str, Segment]:
    return {name: from_bytes(to_bytes(segment)) for name, segment in segments.items()}


def read(engine: Engine, segments: dict[str, Segment]) -> Tensor:
    return logits_of(begin(engine, PROMPTS[2], place_chain(segments))).clone()


def test_a_chain_copies_nothing_and_computes_the_same(engine: Engine, engine_of: MakeEngine) -> None:
    other = engine_of("qwen3")
    apart = {"a": think(other, PROMPTS[0], 3)}
    apart["b"] = think(other, PROMPTS[1], 3, place_chain(copied(apart)))
    segments = chain(engine)
    here = logits_of(go_on(engine, PROMPTS[2], place_chain(segments)))
    assert all(is_resident(segment) for segment in segments.values())
    assert_close(here, read(other, copied(apart)))
    for name, segment in segments.items():
        assert_close(segment.kv_LCHTD, apart[name].kv_LCHTD)


def test_a_cache_that_grows_keeps_what_lies_in_it(engine: Engine) -> None:
    segments = chain(engine)
    before = read(engine, copied(segments))
    segments = chain(engine)
    grown = logits_of(go_on(engine, PROMPTS[2], place_chain(segments), num_slots=5000))
    assert all(is_resident(segment) for segment in segments.values())
    assert_close(grown, before)


@pytest.mark.parametrize("disturbance", ["another batch", "a second reader", "a larger cache", "rows that leave"])
def test_segments_are_settled_before_their_slots_change(engine: Engine, disturbance: str) -> None:
    segments = chain(engine)
    kept = copied(chain(engine))
    segments = chain(engine)
    match disturbance:
        case "another batch":
            begin(engine, prompts_of([30, 30, 30], 7))
        case "a second reader":
            go_on(engine, PROMPTS[2], merge_layout([memory("a")], {"a": segments["a"]}, 3))
        case "a larger cache":
            begin(engine, prompts_of([30, 30, 30], 7), room=5000)
        case "rows that leave":
            session = go_on(engine, PROMPTS[2], place_chain(segments))
            session.cache.drop_row(0)
            begin(engine, prompts_of([30, 30, 30], 7))
    assert not is_resident(segments["a"])
    for name, segment in segments.items():
        assert torch.equal(segment.kv_LCHTD, kept[name].kv_LCHTD)


def test_a_reader_of_one_branch_does_not_see_the_other(engine: Engine) -> None:
    first: dict[str, Segment] = {"a": think(engine, PROMPTS[0], 3)}
    go_on(engine, PROMPTS[1], place_chain(first)).think(3)  # goes on behind a, and is never read
    assert_close(logits_of(go_on(engine, PROMPTS[2], place_chain(first))), read(engine, copied(first)))


@pytest.mark.parametrize("part", ["prompt", "latents"])
def test_a_part_of_a_turn_is_not_mistaken_for_the_whole(engine: Engine, part: str) -> None:
    segments: dict[str, Segment] = {"a": think(engine, PROMPTS[0], 3, hands_over=part)}  # type: ignore[arg-type]
    here = logits_of(go_on(engine, PROMPTS[2], place_chain(segments))).clone()
    assert_close(here, read(engine, copied(segments)))


def test_an_answering_agent_may_decode_behind_memory_and_be_tried_again(engine: Engine) -> None:
    segments = chain(engine)
    sampling = Sampling(max_new_tokens=6)
    once = go_on(engine, PROMPTS[2], place_chain(segments)).decode(sampling, "c")
    again = go_on(engine, PROMPTS[2], place_chain(segments)).decode(sampling, "c")
    assert once == again


def test_a_segment_that_nobody_has_any_more_is_not_copied(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = think(engine, PROMPTS[0], 3)
    gone = weakref.ref(segment.kv)
    gc.disable()
    try:
        del segment
        assert gone() is None
    finally:
        gc.enable()
    monkeypatch.setattr(LazyKV, "detach", lambda _: pytest.fail("copied"))
    begin(engine, PROMPTS[1])


def test_what_travels_has_bytes_of_its_own(engine: Engine) -> None:
    segment = think(engine, PROMPTS[0], 3)
    arrived = pickle.loads(pickle.dumps(segment))
    assert type(arrived.kv) is InMemoryKV
    assert torch.equal(arrived.kv_LCHTD, segment.kv_LCHTD)


def test_the_last_reader_copies_nothing_when_its_questions_end(engine: Engine) -> None:
    """Its batch shrinks over slots in which memory lies that nobody will ask for."""
    segment = think(engine, prompts_of([5, 9, 4], 1), 2)
    session = engine.open(["q0", "q1", "q2"], num_slots=60, reads=place_chain({"a": segment}))
    session.absorb(place_chain({"a": segment}))
    session.prefill(prompts_of([3, 3, 3], 2))
    session.decode(Sampling(max_new_tokens=4), "judger", is_last=True)
    with pytest.raises(SegmentError, match="was released"):
        _ = segment.kv_LCHTD
