"""The bound on the cache of our own text engine in a run."""

from typing import Any

import pytest

from latentmas_ray.writing.cache_bound import left_on_gpu
from latentmas_ray.writing.load import load_text_runner

GB = 10**9


def left(**changes: Any) -> int:
    """What an 8 B model leaves of a GPU of 80 GB."""
    fields: dict[str, Any] = {
        "gpu_bytes": 80 * GB,
        "share": 1.0,
        "weights_bytes": 16 * GB,
        "hidden_size": 4096,
        "vocab_size": 151_936,
        "itemsize": 2,
        "rows": 64,
    }
    return left_on_gpu(**(fields | changes))


def test_on_a_gpu_the_cache_gets_what_is_left() -> None:
    assert 53 * GB < left() < 54 * GB
    assert left() - left(share=0.5) == 36 * GB  # nine tenths of the other half
    assert left() - left(weights_bytes=17 * GB) == GB
    assert left(share=0.2) == 0  # one question runs nevertheless


@pytest.mark.parametrize(("executes_turns", "part"), [(False, 1), (True, 2)])
def test_the_engine_of_a_run_has_a_bound(executes_turns: bool, part: int) -> None:
    asked = []

    def share(device_type: str) -> float:
        asked.append(device_type)
        return 0.0

    runner = load_text_runner(
        "tiny",
        dtype="float32",
        device="cpu",
        thoughts="identity",
        max_running=3,
        get_share=share,
        executes_turns=executes_turns,
    )
    assert asked == ["cpu"]
    engine: Any = runner.engine
    assert engine.max_cache_bytes == 2**30 // part
