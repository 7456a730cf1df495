"""Random models of several families: vLLM reads their memory as our own engine does, which loading one compares."""

from pathlib import Path

import pytest

from tests.numerics.sweep.listing import all_families
from tests.numerics.sweep.random_models import random_model, save
from tests.vllm.child import VllmProcess

SIZES = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Besides those of `SAME_IN_VLLM`: other norms, multipliers, experts, and keys rotated in interleaved pairs.
FAMILIES = {
    "olmo2": {},
    "granite": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 32},
    "glm4": {"head_dim": 32},
}


@pytest.mark.slow  # a process with vLLM for each family
@pytest.mark.parametrize("family", FAMILIES)
def test_memory_of_a_family_is_read_alike(family: str, tmp_path: Path) -> None:
    """Loading writes a memory into vLLM's cache, and compares logits after it and after a plain prompt."""
    config = all_families()[family].config_class(**SIZES, **FAMILIES[family])
    save(random_model(config), config, tmp_path)
    with VllmProcess(model=str(tmp_path), dtype="float32", kv_cache_bytes=2**24, max_running=4):
        pass
