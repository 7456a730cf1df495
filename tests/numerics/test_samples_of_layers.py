"""Samples of models whose layers have windows, latents or states: each is what a run of one sample with its seed
writes, as with layers that keep every key and value."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.memory import Segment
from latentmas_ray.models import LanguageModel
from latentmas_ray.seeds import sample_seed
from tests.numerics.cache_kinds import LATENT, STATES, make_cache_lm
from tests.numerics.families import make_lm
from tests.numerics.position_families import WINDOW
from tests.numerics.test_samples import SAMPLED, SAMPLES
from tests.numerics.test_turn_runner import QUESTIONS, latent, order
from tests.numerics.test_writer import write
from tests.numerics.turns import memory
from tests.numerics.written_cases import STOPS

MakeRunner = Callable[[str], TurnRunner]
Texts = list[list[tuple[int, ...]]]  # by sample and question
KINDS = ("gemma3-window", "deepseek_v3", "qwen3_next", "falcon_h1")  # windows, latents, states, both in one layer


@pytest.fixture(scope="module")
def make_runner(tmp_path_factory: pytest.TempPathFactory) -> MakeRunner:
    """A runner with a cache of its own each time, on a model that is made once. Its texts end at different steps."""
    folder = tmp_path_factory.mktemp("realign")

    @cache
    def lm_of(family: str) -> LanguageModel:
        lm = make_cache_lm(family) if family in {**LATENT, **STATES} else make_lm(family)
        lm.chat.stop_ids = lm.chat.stop_ids | STOPS
        return lm

    return lambda family: TurnRunner(Engine(lm_of(family), thoughts="realign", cache_dir=folder))


def judger(**changes: Any) -> TurnRequest:
    return order("judger", "text", **{"sampling": SAMPLED, "reads": (memory("planner"),), **changes})


@pytest.fixture(params=KINDS)
def runner(request: pytest.FixtureRequest, make_runner: MakeRunner) -> TurnRunner:
    return make_runner(request.param)


@pytest.fixture
def segments(runner: TurnRunner) -> dict[str, Segment]:
    planner = latent(runner, order("planner"))
    planner.kv.buffer()
    assert min(planner.lengths) > 2 * WINDOW
    return {"planner": planner}


@pytest.fixture
def alone(runner: TurnRunner, segments: dict[str, Segment]) -> Texts:
    """What each sample's seed writes in a run of one sample."""
    found = []
    for sample in range(SAMPLES):
        sampling = replace(SAMPLED, seed=sample_seed(SAMPLED.seed, sample))
        found.append(list(runner.run(judger(sampling=sampling), segments)[1].output_token_ids))
    lengths = {len(text) for texts in found for text in texts}
    assert len(lengths) > 2, "rows must leave at different steps"
    return found


def texts_of(samples: Any) -> Texts:
    return [[question[sample].token_ids for question in samples] for sample in range(SAMPLES)]


def test_a_static_turn_writes_each_sample_as_if_it_were_alone(
    runner: TurnRunner, segments: dict[str, Segment], alone: Texts
) -> None:
    _, result = runner.run(judger(samples=SAMPLES), segments)
    assert texts_of(result.samples) == alone


def test_memory_that_is_still_in_the_cache_is_shared_too(runner: TurnRunner, alone: Texts) -> None:
    planner = latent(runner, order("planner"))
    _, result = runner.run(judger(samples=SAMPLES, is_last=True), {"planner": planner})
    assert texts_of(result.samples) == alone


@pytest.mark.parametrize("max_running", [1, 3, SAMPLES * len(QUESTIONS)])
def test_a_continuous_engine_writes_each_sample_as_if_it_were_alone(
    runner: TurnRunner, segments: dict[str, Segment], alone: Texts, max_running: int
) -> None:
    """Also where there is room for some of them only, so that the others start when these have ended."""
    (result,) = write(runner, (judger(samples=SAMPLES), segments), max_running=max_running)
    assert result.failed == {}
    assert texts_of(result.samples) == alone
