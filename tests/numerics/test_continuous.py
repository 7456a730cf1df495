"""An engine that writes continuously writes what the static batch writes, whoever comes and goes beside a question."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import ActorError, ContextLengthError, SegmentError
from latentmas_ray.memory import MergedLayout, Segment, SegmentChunk, TPRank, merge_layout
from latentmas_ray.memory.reslice import reslice
from latentmas_ray.models import LanguageModel
from latentmas_ray.topology.agent import HandsOver
from latentmas_ray.writing import cache_room
from latentmas_ray.writing.continuous import ContinuousEngine
from latentmas_ray.writing.text_engine import MemoryPart, QuestionMemory, TextRequest
from tests.cases.writing import Written, question_memory, write_all
from tests.numerics.families import make_lm, with_limit
from tests.numerics.turns import assert_close, begin, memory, prompts_of, think

NUM_STEPS = 3
SETTINGS = (
    Sampling(max_new_tokens=9),
    Sampling(max_new_tokens=14, temperature=1.0),
    Sampling(max_new_tokens=1, temperature=0.6, top_p=0.9),
    Sampling(max_new_tokens=20, temperature=0.6, top_p=0.9, seed=7),
    Sampling(max_new_tokens=14, temperature=1.3, top_p=0.8),
)
KINDS = ("none", "all", "latents", "prompt", "branches", "shards")
# About one token in twelve ends a text, so that rows leave at different steps.
STOPS = frozenset(range(3, 25))
QUESTIONS = tuple((kind, number) for kind in KINDS for number in range(3))


@pytest.fixture(autouse=True, scope="module")
def _small_steps() -> Iterator[None]:
    """Caches grow every few tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_room, "_SLOT_STEP_CPU", 8)
        patch.setattr(cache_room, "_GROWTH", 1.1)
        yield


@dataclass(frozen=True)
class Case:
    """A question and what the static path answers when it is asked alone."""

    request: TextRequest
    answer: list[int]
    is_cut_off: bool


def layout_of(engine: Engine, kind: str, number: int) -> MergedLayout | None:
    """The memory that a question of this kind reads."""
    if kind == "none":
        return None
    hands_over: HandsOver = kind if kind in ("latents", "prompt") else "all"  # type: ignore[assignment]
    first = think(engine, prompts_of([5 + 9 * number], number), NUM_STEPS, hands_over=hands_over)
    is_branch = kind == "branches"
    before = None if is_branch else merge_layout([memory("a")], {"a": first}, 1)
    second = think(engine, prompts_of([3 + number], 40 + number), NUM_STEPS, before, hands_over=hands_over)
    reads = [memory("a"), memory("b")] if is_branch else [memory("a", "b")]
    return merge_layout(reads, {"a": first, "b": second}, 1)


def resliced(segment: Segment) -> SegmentChunk:
    """The same memory as it comes from two ranks, each with half of the heads."""
    kv_LCHTD, num_heads = segment.kv_LCHTD, segment.meta.spec.num_kv_heads // 2
    parts = [
        SegmentChunk.from_tensor(
            replace(segment.meta, spec=segment.meta.spec.of_shard(TPRank(rank, 2))),
            (0,),
            segment.lengths,
            kv_LCHTD[:, :, rank * num_heads : (rank + 1) * num_heads].contiguous(),
            segment.recompute_inputs,
        )
        for rank in range(2)
    ]
    return reslice(parts, segment.meta.spec)


def make_case(engine: Engine, kind: str, number: int, sampling: Sampling) -> Case:
    layout = layout_of(engine, kind, number)
    prompt = prompts_of([2 + 11 * number], 90 + number)[0]
    own = None if layout is None else question_memory(layout)
    if layout is not None and kind == "shards":
        assert all(isinstance(placed.segment, Segment) for placed in layout.segments)
        own = question_memory(layout, {one.agent: resliced(one.segment) for one in layout.segments})  # type: ignore[arg-type]
        assert len(own.parts) == 4
    session = begin(engine, [prompt], layout)
    session.question_ids = [f"{kind}{number}"]
    answer = session.decode(sampling, "answerer")[0]
    request = TextRequest(
        key=f"{kind}{number}",
        question_id=f"{kind}{number}",
        agent="answerer",
        prompt_ids=tuple(prompt),
        sampling=sampling,
        memory=own,
    )
    return Case(request, answer, session.cut_off[0] != "no")


def make_cases(lm: LanguageModel, folder: Path, questions: Sequence[tuple[str, int]] = QUESTIONS) -> dict[str, Case]:
    engine = Engine(lm, realign=True, cache_dir=folder)
    cases = [
        make_case(engine, kind, number, SETTINGS[index % len(SETTINGS)])
        for index, (kind, number) in enumerate(questions)
    ]
    return {case.request.key: case for case in cases}


def with_stops(family: str) -> LanguageModel:
    lm = make_lm(family)
    lm.chat.stop_ids = lm.chat.stop_ids | STOPS
    return lm


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return with_stops("qwen3")


@pytest.fixture(scope="module")
def cases(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return make_cases(lm, tmp_path_factory.mktemp("realign"))


def check(written: dict[str, Written], cases: dict[str, Case]) -> None:
    for key, one in written.items():
        assert one.tokens == cases[key].answer, key
        assert one.end == ("length" if cases[key].is_cut_off else "stop"), key


def without_numbers(lm: LanguageModel, index: int) -> TextRequest:
    """A question whose memory has overflowed: what it leaves behind must harm nobody."""
    spec = lm.spec
    kv_LCHTD = torch.full((spec.num_layers, 2, spec.num_kv_heads, 50 + index, spec.head_dim), float("nan"))
    return TextRequest(
        key=f"nan{index}",
        question_id=f"nan{index}",
        agent="answerer",
        prompt_ids=(5, 6),
        sampling=Sampling(max_new_tokens=2 + index, temperature=float(index % 2)),
        memory=QuestionMemory(
            parts=[MemoryPart(kv_LCHTD=kv_LCHTD, first_slot=0, shift=index)],
            num_tokens=50 + index,
            next_position=50 + index,
        ),
    )


def test_the_cases_differ(cases: dict[str, Case]) -> None:
    assert len({len(case.answer) for case in cases.values()}) > 5
    assert 2 < sum(case.is_cut_off for case in cases.values()) < len(cases) - 2


@settings(max_examples=settings.default.max_examples // 2)  # each has many questions
@given(
    order=st.permutations(range(len(QUESTIONS))).map(lambda order: order[:9]),
    waits=st.lists(st.integers(0, 6), max_size=9),
    max_running=st.integers(1, 6),
    prefill_chunk=st.sampled_from([1, 7, 30, 1024]),
    num_aborted=st.integers(0, 3),
    num_without_numbers=st.integers(0, 3),
    max_cache_tokens=st.sampled_from([None, 100, 250]),
)
def test_whoever_comes_and_goes_every_answer_is_that_of_the_static_batch(
    order: Sequence[int],
    waits: list[int],
    max_running: int,
    prefill_chunk: int,
    num_aborted: int,
    num_without_numbers: int,
    max_cache_tokens: int | None,
    lm: LanguageModel,
    cases: dict[str, Case],
) -> None:
    names = [list(cases)[index] for index in order]
    requests = [cases[name].request for name in names]
    for index in range(num_without_numbers):
        requests.insert(3 * index, without_numbers(lm, index))
    max_cache_bytes = None if max_cache_tokens is None else max_cache_tokens * lm.spec.bytes_per_token
    engine = ContinuousEngine(lm, max_running=max_running, max_cache_bytes=max_cache_bytes, prefill_chunk=prefill_chunk)
    aborted = dict.fromkeys(names[:num_aborted], 1)
    written = write_all(engine, requests, waits=waits, aborted=aborted)
    check({key: one for key, one in written.items() if key in cases and key not in aborted}, cases)
    for key in aborted:
        assert written[key].tokens == cases[key].answer[:1]
    if max_cache_bytes is not None:
        assert engine.cache_bytes <= max_cache_bytes


@pytest.mark.parametrize("family", ["llama", "gemma3", "neox"])
def test_other_families(family: str, tmp_path: Path) -> None:
    lm = with_stops(family)
    kinds = [kind for kind in KINDS if kind != "shards" or lm.spec.num_kv_heads > 1]
    cases = make_cases(lm, tmp_path, [(kind, 1) for kind in kinds])
    requests = [case.request for case in cases.values()]
    engine = ContinuousEngine(lm, max_running=3, prefill_chunk=16)
    check(write_all(engine, requests, waits=[1, 0, 2] * 2), cases)


class Recorder(LanguageModel):
    """Keeps the logits of its last step."""

    def logits(self, hidden_BE: Tensor) -> Tensor:
        logits_BV = super().logits(hidden_BE)
        self.__dict__["last_BV"] = logits_BV
        return logits_BV


def logits_by_question(lm: LanguageModel, requests: Sequence[TextRequest], max_running: int) -> dict[str, Tensor]:
    """The logits of every token of each question, [tokens, V]."""
    recorder = Recorder(lm.name, lm.model, lm.chat, lm.spec)
    engine = ContinuousEngine(recorder, max_running=max_running, prefill_chunk=20)
    rows: dict[str, list[Tensor]] = {}
    waiting = list(requests)
    while True:
        while waiting and engine.can_start(waiting[0]):
            engine.start(waiting.pop(0))
        outputs = engine.step()
        for output, logits_V in zip(outputs, recorder.__dict__["last_BV"] if outputs else (), strict=True):
            rows.setdefault(output.key, []).append(logits_V)
        if len(rows) == len(requests) and not outputs:
            return {key: torch.stack(own) for key, own in rows.items()}


def test_logits_do_not_depend_on_the_company(lm: LanguageModel, cases: dict[str, Case]) -> None:
    requests = [case.request for case in cases.values()]
    together = logits_by_question(lm, requests, 6)
    for request in requests:
        assert_close(together[request.key], logits_by_question(lm, [request], 1)[request.key], 1e-4)


def test_the_last_position_ends_a_text_as_in_the_static_batch(tmp_path: Path) -> None:
    lm = with_limit(with_stops("qwen3"), 42)
    engine = Engine(lm, realign=True, cache_dir=tmp_path)
    sampling = Sampling(max_new_tokens=30)
    cases = {kind: make_case(engine, kind, 1, sampling) for kind in ("all", "branches", "none")}
    assert any(case.is_cut_off and len(case.answer) < 30 for case in cases.values())
    written = write_all(ContinuousEngine(lm, max_running=2), [case.request for case in cases.values()])
    check({key[:-1]: one for key, one in written.items()}, cases)


def test_a_prompt_without_a_position_is_refused_and_the_others_go_on(lm: LanguageModel, tmp_path: Path) -> None:
    limited = with_limit(with_stops("qwen3"), 42)
    engine = ContinuousEngine(limited, max_running=4)
    case = make_case(Engine(limited, realign=True, cache_dir=tmp_path), "all", 1, SETTINGS[0])
    long = replace(case.request, key="long", prompt_ids=(5,) * 60)
    engine.start(case.request)
    with pytest.raises(ContextLengthError, match="60 prompt tokens do not fit the 42 positions"):
        engine.start(long)
    check(finish(engine, [case]), {case.request.key: case})


def finish(engine: ContinuousEngine, started: Sequence[Case]) -> dict[str, Written]:
    """Step until the cases that have started have ended."""
    written = {case.request.key: Written() for case in started}
    while (outputs := engine.step()) or engine.queued:  # without outputs if one had to be set aside
        for output in outputs:
            written[output.key].tokens += output.token_ids
            written[output.key].end = output.end
            written[output.key].error = output.error
    return written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: replace(part, kv_LCHTD=part.kv_LCHTD[:1]), "does not fit the model"),
        (lambda part: replace(part, kv_LCHTD=part.kv_LCHTD.double()), "torch.float64 does not fit the model"),
        (lambda part: replace(part, kv_LCHTD=part.kv_LCHTD[..., :8]), "does not fit the model"),
        (lambda part: replace(part, kv_LCHTD=part.kv_LCHTD[:, :, :1]), "gives tokens .* of head 1"),
        (lambda part: replace(part, first_head=1), "gives tokens .* of head 0"),
        (lambda part: replace(part, kv_LCHTD=part.kv_LCHTD[:, :, :, 1:]), "gives tokens .* of head 0"),
        (lambda part: replace(part, first_slot=part.first_slot + 1), "gives tokens .* of head 0"),
    ],
)
def test_memory_that_does_not_fit_is_refused_and_the_others_go_on(
    change: object, message: str, lm: LanguageModel, cases: dict[str, Case]
) -> None:
    engine = ContinuousEngine(lm, max_running=4)
    good, bad = cases["all1"], cases["all2"].request
    assert bad.memory is not None
    engine.start(good.request)
    first, *others = bad.memory.parts
    with pytest.raises(SegmentError, match=message):
        engine.start(replace(bad, memory=replace(bad.memory, parts=[change(first), *others])))  # type: ignore[operator]
    check(finish(engine, [good]), cases)


def test_an_engine_that_cannot_continue_says_so(lm: LanguageModel, cases: dict[str, Case]) -> None:
    def break_down(*_: object) -> None:
        raise RuntimeError("the device is lost")

    engine = ContinuousEngine(lm, max_running=8)
    engine.start(cases["none1"].request)
    hook = lm.decoder.register_forward_pre_hook(break_down)
    with pytest.raises(ActorError, match="model qwen3 cannot write: the device is lost"):
        engine.step()
    hook.remove()
    engine.close()
    engine.close()
    assert engine.step() == []
