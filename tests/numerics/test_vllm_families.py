"""Which families' memory vLLM can be given: the others are refused before vLLM starts, and the doctor says the same."""

from pathlib import Path

import pytest

from latentmas_ray.errors import ModelError
from latentmas_ray.models.abilities import find_abilities
from latentmas_ray.vllm.checks import check_windows
from latentmas_ray.vllm.families import vllm_obstacle
from latentmas_ray.vllm.reference import make_reference
from tests.numerics.sweep.listing import all_families
from tests.numerics.sweep.random_models import random_model, save, small_config

REFUSED = {"gemma3_text": "window", "deepseek_v3": "one shape", "qwen3_next": "state"}
TRIED = ("llama", "mixtral", "glm4")  # then their logits and a memory are compared when vLLM has loaded them


def folder_of(family: str, folder: Path) -> str:
    config = small_config(all_families()[family])
    save(random_model(config), config, folder)
    return str(folder)


@pytest.mark.parametrize("family", REFUSED)
def test_other_memory_than_keys_and_values_of_all_tokens_is_refused(family: str, tmp_path: Path) -> None:
    name = folder_of(family, tmp_path)
    with pytest.raises(ModelError, match="vLLM") as caught:
        check_windows(make_reference(name, dtype="float32", revision=None, shard=None).spec, name)
    assert "engine transformers" in str(caught.value)
    spec = find_abilities(name).spec
    assert spec is not None
    assert REFUSED[family] in (vllm_obstacle(spec) or "")


@pytest.mark.parametrize("family", TRIED)
def test_keys_and_values_of_all_tokens_are_tried(family: str, tmp_path: Path) -> None:
    name = folder_of(family, tmp_path)
    reference = make_reference(name, dtype="float32", revision=None, shard=None)
    check_windows(reference.spec, name)
    assert vllm_obstacle(reference.spec) is None
