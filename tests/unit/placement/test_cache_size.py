"""The size of vLLM's paged cache beside other actors."""

import pytest

from latentmas_ray.errors import ModelError
from latentmas_ray.placement import PRESETS
from latentmas_ray.placement.cache_size import bytes_on_gpu, bytes_on_host, describe_bound, wanted_bytes

MODEL = PRESETS["qwen3-8b"]
GB = 10**9
PER_TOKEN = 147_456


def on_gpu(*, gigabytes: int, share: float, wanted: int = 10**15) -> int:
    return bytes_on_gpu(MODEL, "m", gpu_bytes=gigabytes * GB, share=share, wanted=wanted, max_running=64)


def test_no_more_than_all_questions_at_full_length() -> None:
    wanted = wanted_bytes(MODEL, max_running=2, max_positions=1000)
    assert wanted == 2 * 1000 * PER_TOKEN
    assert on_gpu(gigabytes=80, share=1.0, wanted=wanted) == wanted
    assert bytes_on_host(host_bytes=512 * GB, share=1.0, wanted=wanted) == wanted


def test_actors_that_share_a_gpu_fit_it_with_their_weights() -> None:
    """Two actors with a half each use at most the whole GPU."""
    used = on_gpu(gigabytes=80, share=0.5) + MODEL.weights_bytes()
    assert 0.4 * 80 * GB < used < 0.5 * 80 * GB
    assert on_gpu(gigabytes=80, share=1.0) - on_gpu(gigabytes=80, share=0.5) == 0.9 * 0.5 * 80 * GB


def test_a_part_of_a_gpu_that_is_too_small_is_one_line() -> None:
    with pytest.raises(ModelError) as caught:
        on_gpu(gigabytes=80, share=0.25)
    assert str(caught.value) == (
        "model: got 'm'; its weights (16.4 GB) and 3.22 GB to compute with must fit vLLM's part of the GPU, 18 GB: use "
        "fewer actors for each GPU, or engine transformers"
    )


@pytest.mark.parametrize(("host_bytes", "share", "expected"), [(64 * GB, 0.5, 4 * GB), (8 * GB, 0.1, 2**30)])
def test_on_a_host(host_bytes: int, share: float, expected: int) -> None:
    assert bytes_on_host(host_bytes=host_bytes, share=share, wanted=10**15) == expected


def test_a_cache_that_holds_fewer_positions_than_the_model_has_is_named() -> None:
    assert describe_bound(4096, cache_bytes=GB, of_model=4096) == ""
    assert describe_bound(2304, cache_bytes=GB, of_model=4096) == (
        "vLLM's cache of 1 GB holds 2304 (the model has 4096): use a shorter prompt or fewer latent steps, a larger "
        "part of the device for the actor (fewer actors for each, or a larger tp), or engine transformers"
    )
    assert "holds 2304 (the model has any number)" in describe_bound(2304, cache_bytes=GB, of_model=None)
