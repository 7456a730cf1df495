"""Several texts for one question: each is what a run of one sample with its seed writes, and the memory is absorbed and
the prompt read once."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import Sampling, TurnRequest, TurnResult
from latentmas_ray.memory import Segment
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.seeds import sample_seed
from latentmas_ray.writing.continuous import ContinuousEngine
from latentmas_ray.writing.text_engine import TextRequest
from tests.numerics.conftest import MakeEngine
from tests.numerics.test_turn_runner import QUESTIONS, latent, order
from tests.numerics.test_writer import write
from tests.numerics.turns import memory
from tests.numerics.written_cases import Case, with_stops

SAMPLES = 4
SAMPLED = Sampling(temperature=1.3, top_p=0.95, max_new_tokens=12, seed=5)


@pytest.fixture
def runner(engine_of: MakeEngine) -> TurnRunner:
    return TurnRunner(engine_of("qwen3"))


@pytest.fixture
def segments(runner: TurnRunner) -> dict[str, Segment]:
    planner = latent(runner, order("planner"))
    planner.kv.buffer()
    return {"planner": planner}


def judger(**changes: Any) -> TurnRequest:
    return order("judger", "text", **{"sampling": SAMPLED, "reads": (memory("planner"),), **changes})


def alone(runner: TurnRunner, segments: dict[str, Segment], sample: int, **changes: Any) -> TurnResult:
    """The turn with one sample and that sample's seed."""
    sampling = replace(SAMPLED, seed=sample_seed(SAMPLED.seed, sample))
    return runner.run(judger(sampling=sampling, **changes), segments)[1]


def assert_is_each_alone(result: TurnResult, runner: TurnRunner, segments: dict[str, Segment], **changes: Any) -> None:
    assert [len(one) for one in result.samples] == [SAMPLES] * len(QUESTIONS)
    for sample in range(SAMPLES):
        one = alone(runner, segments, sample, **changes)
        assert tuple(texts[sample].token_ids for texts in result.samples) == one.output_token_ids
        assert tuple(texts[sample].text for texts in result.samples) == one.texts
        assert tuple(texts[sample].cut_off for texts in result.samples) == one.cut_off
    assert result.output_token_ids == tuple(texts[0].token_ids for texts in result.samples)
    assert result.num_written(0) == sum(len(text.token_ids) for text in result.samples[0])
    assert len({text.token_ids for text in result.samples[1]}) > 1


def test_a_static_turn_writes_each_sample_as_if_it_were_alone(runner: TurnRunner, segments: dict[str, Segment]) -> None:
    _, result = runner.run(judger(samples=SAMPLES), segments)
    assert_is_each_alone(result, runner, segments)


def test_memory_that_is_still_in_the_cache_is_shared_too(engine_of: MakeEngine) -> None:
    runner = TurnRunner(engine_of("qwen3"))
    planner = latent(runner, order("planner"))
    _, result = runner.run(judger(samples=SAMPLES, is_last=True), {"planner": planner})
    again = TurnRunner(engine_of("qwen3"))
    kept = latent(again, order("planner"))
    kept.kv.buffer()
    assert_is_each_alone(result, again, {"planner": kept})


@pytest.mark.parametrize("max_running", [1, 3, SAMPLES * len(QUESTIONS)])
def test_a_writer_writes_each_sample_as_if_it_were_alone(
    runner: TurnRunner, segments: dict[str, Segment], max_running: int
) -> None:
    """Also where there is room for some of them only, so that the others start when these have ended."""
    (result,) = write(runner, (judger(samples=SAMPLES), segments), max_running=max_running)
    assert result.failed == {}
    assert_is_each_alone(result, runner, segments)


def test_samples_do_not_depend_on_the_batch(runner: TurnRunner, segments: dict[str, Segment]) -> None:
    _, both = runner.run(judger(samples=SAMPLES), segments)
    (written,) = write(runner, (judger(samples=SAMPLES, decode_batch=1), segments), max_running=64)
    assert written.samples == both.samples


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    forward = LanguageModel.hidden_states

    def counting(self: LanguageModel, embeds_NE: torch.Tensor, *more: Any) -> torch.Tensor:
        counts.append(len(embeds_NE))
        return forward(self, embeds_NE, *more)

    monkeypatch.setattr(LanguageModel, "hidden_states", counting)
    return counts


@pytest.fixture
def written_slots(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    write_slots = BatchCache.write

    def counting(self: BatchCache, row: int, first: int, kv_LCHTD: torch.Tensor, *more: Any, **named: Any) -> None:
        counts.append(kv_LCHTD.shape[3])
        write_slots(self, row, first, kv_LCHTD, *more, **named)

    monkeypatch.setattr(BatchCache, "write", counting)
    return counts


@pytest.mark.parametrize("is_static", [True, False])
def test_memory_is_absorbed_and_the_prompt_read_once(
    runner: TurnRunner, segments: dict[str, Segment], is_static: bool, fed: list[int], written_slots: list[int]
) -> None:
    def run(samples: int) -> tuple[int, int, int]:
        fed.clear()
        written_slots.clear()
        work = judger(samples=samples, sampling=replace(SAMPLED, max_new_tokens=1))
        if is_static:
            _, result = runner.run(work, segments)
        else:
            (result,) = write(runner, (work, segments), max_running=64)
        return sum(fed), sum(written_slots), sum(result.prompt_tokens)

    inputs, absorbed, prompt = run(1)
    more_inputs, absorbed_again, _ = run(SAMPLES)
    assert absorbed == absorbed_again == sum(segments["planner"].lengths)
    # A continuous engine feeds the last token of a prompt for each further sample, for its first logits.
    assert inputs == prompt
    assert more_inputs == prompt + (0 if is_static else (SAMPLES - 1) * len(QUESTIONS))


def requests(case: Case, samples: int) -> Iterator[TextRequest]:
    """The samples of one question, as one group."""
    sampling = case.request.sampling
    for sample in range(samples):
        own = replace(sampling, seed=sample_seed(sampling.seed, sample), temperature=1.0, max_new_tokens=9)
        yield replace(case.request, key=f"{case.request.key} {sample}", sampling=own, group=case.request.key)


@pytest.mark.parametrize("prefill_chunk", [1, 4, 1024])
def test_a_sample_whose_model_leaves_reads_its_prompt_itself(cases: dict[str, Case], prefill_chunk: int) -> None:
    lm = with_stops("qwen3")
    case = cases["all2"]
    engine = ContinuousEngine(lm, max_running=8, prefill_chunk=prefill_chunk)
    first, second, third = requests(case, 3)
    expected = {}
    for one in (second, third):
        single = ContinuousEngine(lm, max_running=1)
        single.start(replace(one, group=""))
        expected[one.key] = [token for output in iter(single.step, []) for part in output for token in part.token_ids]
    for one in (first, second, third):
        engine.start(one)
    engine.step()
    engine.abort([first.key])
    tokens: dict[str, list[int]] = {second.key: [], third.key: []}
    while (outputs := engine.step()) or engine.queued:
        for output in outputs:
            tokens[output.key] += output.token_ids
    assert tokens == expected


def test_copies_of_rows_are_theirs(lm: LanguageModel) -> None:
    cache = BatchCache(lm.spec, lm.layer_devices, 2, 8)
    cache.open(2)
    for layer in cache.layers:
        layer.kv_CBHTD[:, 0, :, :3] = 1.0
        layer.kv_CBHTD[:, 1, :, :5] = 2.0
    cache.extend([3, 5])
    cache.fork(3)
    assert cache.lengths == [3, 5] * 3
    assert cache.num_rows == 6
    for layer in cache.layers:
        for row, (value, length) in enumerate([(1.0, 3), (2.0, 5)] * 3):
            assert bool((layer.kv_CBHTD[:, row, :, :length] == value).all())
            assert bool((layer.kv_CBHTD[:, row, :, length:] == 0).all())
    cache.layers[0].kv_CBHTD[:, 2] = 9.0
    assert bool((cache.layers[0].kv_CBHTD[:, 0, :, :3] == 1.0).all())


def test_seeds_of_samples() -> None:
    assert sample_seed(42, 0) == 42
    seeds = {sample_seed(seed, sample) for seed in range(20) for sample in range(20)}
    assert len(seeds) == 400
    assert max(seeds) < 2**53
