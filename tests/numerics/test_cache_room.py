"""Our own text engine without enough memory: a question without room waits, and writes what it would have written."""

import re
from collections.abc import Iterator

import pytest
import torch

from latentmas_ray.errors import CacheError
from latentmas_ray.models import LanguageModel
from latentmas_ray.models import cache as cache_module
from latentmas_ray.writing import cache_room
from latentmas_ray.writing.continuous import ContinuousEngine
from tests.cases.writing import write_all
from tests.numerics.test_continuous import Case, check, finish, make_cases, with_stops


@pytest.fixture(autouse=True, scope="module")
def _small_steps() -> Iterator[None]:
    """Caches grow every few tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_room, "_SLOT_STEP_CPU", 8)
        patch.setattr(cache_room, "_GROWTH", 1.1)
        yield


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return with_stops("qwen3")


@pytest.fixture(scope="module")
def cases(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    return make_cases(lm, tmp_path_factory.mktemp("realign"))


def test_without_room_to_grow_the_youngest_waits_and_continues(
    lm: LanguageModel, cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ContinuousEngine(lm, max_running=8)
    started = [cases["none0"], cases["all0"], cases["latents0"]]
    for case in started:
        engine.start(case.request)
    original, fails = cache_module.BatchCache.resize, [True]

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
