"""An engine that writes continuously writes what the static batch writes, whoever comes and goes beside a question."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import ActorError, ContextLengthError, SegmentError
from latentmas_ray.models import LanguageModel
from latentmas_ray.writing.continuous import ContinuousEngine
from latentmas_ray.writing.text_engine import MemoryPart, QuestionMemory, TextRequest
from tests.cases.writing import write_all
from tests.numerics.families import with_limit
from tests.numerics.turns import assert_close
from tests.numerics.written_cases import (
    KINDS,
    QUESTIONS,
    SETTINGS,
    Case,
    check,
    finish,
    make_case,
    make_cases,
    with_stops,
)

pytestmark = pytest.mark.usefixtures("small_steps")


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
    engine = Engine(lm, thoughts="realign", cache_dir=tmp_path)
    sampling = Sampling(max_new_tokens=30)
    cases = {kind: make_case(engine, kind, 1, sampling) for kind in ("all", "branches", "none")}
    assert any(case.is_cut_off and len(case.answer) < 30 for case in cases.values())
    written = write_all(ContinuousEngine(lm, max_running=2), [case.request for case in cases.values()])
    check({key[:-1]: one for key, one in written.items()}, cases)


def test_a_prompt_without_a_position_is_refused_and_the_others_go_on(lm: LanguageModel, tmp_path: Path) -> None:
    limited = with_limit(with_stops("qwen3"), 42)
    engine = ContinuousEngine(limited, max_running=4)
    case = make_case(Engine(limited, thoughts="realign", cache_dir=tmp_path), "all", 1, SETTINGS[0])
    long = replace(case.request, key="long", prompt_ids=(5,) * 60)
    engine.start(case.request)
    with pytest.raises(ContextLengthError, match="60 prompt tokens do not fit the 42 positions"):
        engine.start(long)
    check(finish(engine, [case]), {case.request.key: case})


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
