"""Predicted seconds of turns, against limits that others published or that can be worked out by hand."""

from dataclasses import replace

import pytest

from latentmas_ray.errors import ConfigError
from latentmas_ray.placement import HARDWARE, PRESETS, Workload
from latentmas_ray.placement.prediction.turn_costs import Efficiency, StepModel, turn_costs
from latentmas_ray.topology import load_topology


def device(model: str = "qwen3-14b", hardware: str = "h100", tp: int = 1, **more: object) -> StepModel:
    return StepModel(model=PRESETS[model], hardware=HARDWARE[hardware], tp=tp, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("hardware", "milliseconds"), [("h100", 9), ("h200", 6), ("a100-80gb", 14)])
def test_a_latent_step_of_14b_takes_what_reading_its_weights_takes(hardware: str, milliseconds: float) -> None:
    step = device(hardware=hardware).step(8, 1000, reads_vocabulary=False)
    assert step.seconds * 1e3 == pytest.approx(milliseconds, rel=0.1)
    assert step.limit == "memory bandwidth"


@pytest.mark.parametrize(("model", "percent"), [("qwen3-0.6b", 26), ("qwen3-4b", 9.7), ("qwen3-14b", 5.3)])
def test_the_vocabulary_is_the_published_part_of_a_decode_step(model: str, percent: float) -> None:
    latent = device(model).step(1, 0, reads_vocabulary=False).seconds
    decode = device(model).step(1, 0, reads_vocabulary=True).seconds
    # The published parts count the input embeddings as read, too.
    assert 100 * (1 - latent / decode) == pytest.approx(percent, rel=0.06)


def test_a_step_grows_with_the_kv_of_its_rows_until_it_is_bound_by_compute() -> None:
    at = [device().step(rows, 2000, reads_vocabulary=True) for rows in (1, 8, 64)]
    assert at[0].seconds < at[1].seconds < at[2].seconds < 64 * at[0].seconds
    short = [device().step(rows, 1, reads_vocabulary=True).limit for rows in (1, 8192)]
    assert short == ["memory bandwidth", "compute"]


def test_a_prefill_is_bound_by_compute_and_a_short_one_by_the_weights() -> None:
    whole = device().prefill(8, 1000, 0)
    assert whole.limit == "compute"
    assert whole.seconds == pytest.approx(2 * 13.2e9 * 8000 / 989.5e12, rel=0.05)
    assert device().prefill(1, 10, 0).limit == "memory bandwidth"


def test_two_ranks_take_half_and_what_their_sums_move() -> None:
    one, two = (device(tp=tp).step(8, 1000, reads_vocabulary=False).seconds for tp in (1, 2))
    assert one / 2 < two < 0.6 * one
    slow = device(hardware="l40s", tp=2).step(512, 1000, reads_vocabulary=False).seconds
    linked = replace(HARDWARE["l40s"], nvlink=450e9)
    fast = StepModel(model=PRESETS["qwen3-14b"], hardware=linked, tp=2).step(512, 1000, reads_vocabulary=False).seconds
    assert slow > fast


def test_a_turn_is_its_phases_and_only_those_of_its_kind() -> None:
    made = load_topology("sequential")
    expected = Workload(batch_size=8, latent_steps=40, max_new_tokens=500)
    costs = turn_costs(made, expected, {"judger": 64}, device())
    planner, judger = costs["planner"], costs["judger"]
    assert planner.decode.seconds == judger.think.seconds == 0
    assert planner.think.seconds * 8 == pytest.approx(40 * 0.0083, rel=0.02)
    assert judger.seconds == judger.prefill.seconds + judger.decode.seconds
    assert judger.slowest[0] == "decode"
    batches = turn_costs(made, expected, {}, device())["judger"]
    assert judger.decode.seconds < batches.decode.seconds / 3, "64 questions share each reading of the weights"


def test_an_engine_reaches_a_part_of_the_limits() -> None:
    limit = device().step(1, 0, reads_vocabulary=True).seconds
    reached = device(efficiency=Efficiency(bandwidth=0.5)).step(1, 0, reads_vocabulary=True).seconds
    assert reached == pytest.approx(2 * limit)


def test_hardware_without_a_peak_for_the_dtype_is_named() -> None:
    half = replace(HARDWARE["h100"], name="mine", peak_flops={"bfloat16": 1e14})
    with pytest.raises(ConfigError, match=r"^hardware: got 'mine'; its peak_flops have no float32"):
        StepModel(model=PRESETS["qwen3-14b"].in_dtype("float32"), hardware=half)
