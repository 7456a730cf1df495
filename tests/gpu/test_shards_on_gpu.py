"""A model divided over two GPUs, by NCCL: the numbers of the whole model on the CPU, and memory that fits either."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from latentmas_ray.parallel.ranks import ALONE
from tests.numerics.families import make_lm
from tests.numerics.processes import RankProcesses
from tests.numerics.shard_cases import compute, join_heads
from tests.numerics.turns import assert_close


@pytest.fixture(scope="module")
def two() -> Iterator[RankProcesses]:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"two ranks need a GPU each, and here are {torch.cuda.device_count()}")
    processes = RankProcesses(2, use_gpus=True)
    yield processes
    processes.end()


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_two_gpus_compute_what_the_whole_model_computes(family: str, two: RankProcesses, tmp_path: Path) -> None:
    lm = make_lm(family)
    lm.model.save_pretrained(tmp_path / "model")
    lm.chat.tokenizer.save_pretrained(tmp_path / "model")
    whole = compute(ALONE, tmp_path)
    parts = two.run(compute, tmp_path, "cuda")
    assert_close(join_heads([part.kv_LCHTD for part in parts]), whole.kv_LCHTD, 1e-3)
    for part in parts:
        assert_close(part.logits, whole.logits, 1e-3)
        assert (part.greedy, part.sampled) == (parts[0].greedy, parts[0].sampled)
        assert part.greedy == whole.greedy
        assert part.revision == whole.revision
