"""Our own text engine without enough memory: a question without room waits, and writes what it would have written."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from latentmas_ray.engine.turn import Sampling
from latentmas_ray.errors import CacheError
from latentmas_ray.models import LanguageModel
from latentmas_ray.models import cache as cache_module
from latentmas_ray.writing.continuous import ContinuousEngine
from latentmas_ray.writing.text_engine import TextOutput, TextRequest
from tests.cases.writing import write_all
from tests.numerics.written_cases import Case, check, finish

pytestmark = pytest.mark.usefixtures("small_steps")


def test_without_room_to_grow_the_youngest_waits_and_continues(
    lm: LanguageModel, cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ContinuousEngine(lm, max_running=8)
    started = [cases["none0"], cases["all0"], cases["latents0"]]
    for case in started:
        engine.start(case.request)
    original, fails = cache_module.BatchCache.resize, [True, True]  # for growth, and for the next slot

    def resize(self: cache_module.BatchCache, num_rows: int, num_slots: int) -> None:
        if fails:
            fails.pop()
            raise CacheError("there is no memory")
        original(self, num_rows, num_slots)

    monkeypatch.setattr(cache_module.BatchCache, "resize", resize)
    written = finish(engine, started)
    assert not fails
    check(written, cases)
    assert engine.max_running == 1  # two did not fit
    assert engine.queued == []


def test_without_memory_for_a_forward_the_youngest_waits(lm: LanguageModel, cases: dict[str, Case]) -> None:
    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory\nand advice")

    engine = ContinuousEngine(lm, max_running=8)
    started = [cases["none1"], cases["all1"]]
    for case in started:
        engine.start(case.request)
    hook = lm.decoder.register_forward_pre_hook(too_much)
    assert engine.step() == []
    assert set(engine.queued) == {"none1", "all1"}
    assert not engine.can_start(cases["none0"].request)  # it would overtake
    (alone,) = engine.step()
    hook.remove()
    assert (alone.key, alone.end) == ("none1", "error")
    assert re.match(
        r"a KV cache of 1 questions × \d+ tokens takes .*B, and cpu has .*B left: .* \(out of memory\)", alone.error
    )
    check(finish(engine, started[1:]), cases)
    engine.start(started[0].request)
    hook = lm.decoder.register_forward_pre_hook(too_much)
    engine.start(started[1].request)
    engine.step()
    engine.abort(["all1"])
    hook.remove()
    check(finish(engine, started[:1]), cases)


def test_a_question_that_was_set_aside_and_has_no_room_alone_ends(
    lm: LanguageModel, cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ContinuousEngine(lm, max_running=8)
    for name in ("none1", "all1"):
        engine.start(cases[name].request)
    original = engine._write_tokens
    monkeypatch.setattr(engine, "_write_tokens", lambda: (_ for _ in ()).throw(CacheError("no")))
    assert engine.step() == []
    monkeypatch.setattr(engine, "_write_tokens", original)
    engine.abort(["none1"])
    with monkeypatch.context() as patch:
        patch.setattr(
            cache_module.BatchCache, "write", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("x"))
        )
        (refused,) = engine.step()
    assert (refused.key, refused.end) == ("all1", "error")
    assert engine.step() == []
    check(write_all(engine, [cases["all1"].request]), cases)


def test_without_memory_for_sampling_the_others_write_on_as_before(
    lm: LanguageModel, cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, logits, calls = ContinuousEngine(lm, max_running=8), LanguageModel.logits, [0]

    def scarce(model: LanguageModel, hidden_BE: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 2:
            raise torch.OutOfMemoryError("out of memory")
        return logits(model, hidden_BE)

    monkeypatch.setattr(LanguageModel, "logits", scarce)
    started = [case for name, case in cases.items() if name[-1] in "01"]
    for case in started:
        engine.start(case.request)
    check(finish(engine, started), cases)
    assert calls[0] > 2


def test_without_memory_to_copy_a_question_fails_alone(
    lm: LanguageModel, cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("out of memory\nand advice")

    engine = ContinuousEngine(lm, max_running=8)
    engine.start(cases["all0"].request)
    with monkeypatch.context() as patch:
        patch.setattr(cache_module.BatchCache, "write", too_much)
        with pytest.raises(CacheError, match=r"no room for a question's memory: out of memory$"):
            engine.start(cases["branches1"].request)
    check(finish(engine, [cases["all0"]]), cases)
    check(write_all(engine, [cases["branches1"].request]), cases)


def test_a_question_that_needs_more_than_the_bound_runs_alone(lm: LanguageModel, cases: dict[str, Case]) -> None:
    engine = ContinuousEngine(lm, max_running=8, max_cache_bytes=20 * lm.spec.bytes_per_token)
    long, short = cases["all2"], cases["none0"]
    assert engine.can_start(long.request)
    engine.start(long.request)
    assert not engine.can_start(short.request)
    check(finish(engine, [long]), cases)
    assert engine.can_start(short.request)
    check(write_all(engine, [short.request]), cases)


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with memory for so many rows × slots."""
    original = cache_module._zeros

    def zeros(shape: Sequence[int], *arguments: Any) -> torch.Tensor:
        if shape[1] * shape[3] > 220:
            raise CacheError("there is no memory")
        return original(shape, *arguments)

    monkeypatch.setattr(cache_module, "_zeros", zeros)


def short(key: str, num_prompt: int, max_new_tokens: int) -> TextRequest:
    prompt = tuple(20 + index % 200 for index in range(num_prompt))
    sampling = Sampling(max_new_tokens=max_new_tokens)
    return TextRequest(key=key, question_id=key, agent="a", prompt_ids=prompt, sampling=sampling)


@pytest.mark.usefixtures("scarce")
def test_more_than_is_needed_is_only_reserved_where_there_is_memory(lm: LanguageModel) -> None:
    """Eight have run; then a long one comes alone, and one of eight grows when the others have ended."""
    engine = ContinuousEngine(lm, max_running=8)
    eight = [short(f"s{index}", 4, 4) for index in range(8)]
    write_all(engine, eight)
    engine.start(short("long", 150, 4))
    assert finish_all(engine) == ["long"]
    grows = [*eight[:7], short("grows", 4, 56)]
    for request in grows:
        engine.start(request)
    assert finish_all(engine) == sorted(request.key for request in grows)
    assert engine.max_running == 8


@pytest.mark.usefixtures("scarce")
def test_a_question_that_waits_for_room_does_not_make_others_wait_for_good(lm: LanguageModel) -> None:
    engine = ContinuousEngine(lm, max_running=8)
    small = [short(f"s{index}", 4, 4 + 3 * index) for index in range(6)]
    for request in small:
        engine.start(request)
    long = short("long", 150, 4)
    with pytest.raises(CacheError, match="7 questions × 150 tokens"):
        engine.start(long)
    assert not engine.can_start(small[0])  # until one has ended
    assert finish_all(engine) == [request.key for request in small]
    assert engine.can_start(long)
    engine.start(long)
    assert finish_all(engine) == ["long"]
    for request in small:
        assert engine.can_start(request)
        engine.start(request)
    assert finish_all(engine) == [request.key for request in small]
    assert engine.max_running == 8


def test_a_question_that_cannot_even_be_set_aside_ends_alone(
    lm: LanguageModel, cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("out of memory\nand advice")

    engine = ContinuousEngine(lm, max_running=8)
    for name in ("none1", "all1"):
        engine.start(cases[name].request)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_write_tokens", too_much)
        patch.setattr(cache_module.BatchCache, "copy_out", too_much)
        (ended,) = engine.step()
    assert (ended.key, ended.end) == ("all1", "error")
    assert "left: use a smaller decode_batch" in ended.error
    check(finish(engine, [cases["none1"]]), cases)


def finish_all(engine: ContinuousEngine) -> list[str]:
    """The keys of the questions that end without an error, in order of their names."""
    ended: list[TextOutput] = []
    while engine._rows or engine.queued:
        ended += [output for output in engine.step() if output.end is not None]
    assert [output for output in ended if output.end == "error"] == []
    return sorted(output.key for output in ended)
