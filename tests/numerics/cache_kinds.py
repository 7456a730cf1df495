"""Small random models whose cache is not one key and one value of a shape in all layers: compressed latents, states,
and layers that differ. By the name of their family in transformers."""

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PretrainedConfig

from latentmas_ray.models import LanguageModel, wrap
from latentmas_ray.models.presets import tiny_tokenizer
from latentmas_ray.models.thoughts import ThoughtRule
from tests.numerics.families import GQA, MHA
from tests.numerics.plain import Plain

_MLA: dict[str, Any] = {
    **MHA,
    "kv_lora_rank": 24,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "qk_nope_head_dim": 12,
}
_MOE: dict[str, Any] = {
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
}
_FOUR: dict[str, Any] = {**GQA, "num_hidden_layers": 4}
_DELTA: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}
_MAMBA2: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 8}
_HYBRID_TYPES = ["linear_attention", "full_attention", "linear_attention", "full_attention"]

# Latents of layers with latent attention.
LATENT: dict[str, dict[str, Any]] = {
    "deepseek_v3": {**_MLA, **_MOE},
    "glm4_moe_lite": {**_MLA, **_MOE},
    "minicpm3": {**_MLA, "scale_emb": 2, "dim_model_base": 64},
    "youtu": _MLA,
    "axk1": {**_MLA, **_MOE},
    "longcat_flash": {
        **{key: value for key, value in _MLA.items() if key != "num_hidden_layers"},
        "num_layers": 2,
        "head_dim": 8,
        "ffn_hidden_size": 96,
        "expert_ffn_hidden_size": 32,
        "moe_topk": 2,
        "n_routed_experts": 4,
        "zero_expert_num": 2,
    },
}
# States of some layers, next to the keys of others.
STATES: dict[str, dict[str, Any]] = {
    "qwen3_next": {**_FOUR, **_DELTA, **_EXPERTS, "head_dim": 32},
    "qwen3_5_text": {**_FOUR, **_DELTA, "head_dim": 32},
    "olmo_hybrid": {**_FOUR, **_DELTA, "layer_types": _HYBRID_TYPES},
    "granitemoehybrid": {
        **_FOUR,
        **_MAMBA2,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 32,
        "layer_types": ["mamba", "attention", "mamba", "attention"],
    },
    "bamba": {**_FOUR, **_MAMBA2, "attn_layer_indices": [1, 3]},
    "falcon_h1": {**_FOUR, **_MAMBA2, "mamba_d_ssm": 128, "head_dim": 16},
    "nemotron_h": {
        **{key: value for key, value in GQA.items() if key != "num_hidden_layers"},
        "layers_block_type": ["mamba", "attention", "mamba", "mlp"],
        "head_dim": 16,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 16,
        "n_groups": 2,
        "chunk_size": 8,
    },
    "jamba": {
        **_FOUR,
        "num_experts": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 8,
    },
    "lfm2": {**_FOUR, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "kimi_linear": {
        **_MLA,
        "num_hidden_layers": 4,
        "moe_intermediate_size": 32,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "layer_types": _HYBRID_TYPES,
        "mlp_layer_types": ["dense", "sparse", "dense", "sparse"],
        "linear_head_dim": 16,
        "linear_num_heads": 4,
    },
}


def config_of(family: str) -> PretrainedConfig:
    return AutoConfig.for_model(family, **{**LATENT, **STATES}[family])


def make_cache_lm(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The same weights for the same family, whatever was made before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        model = AutoModelForCausalLM.from_config(config_of(family))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # they begin as zeros, which would hide a forgotten one
                torch.nn.init.normal_(parameter, std=0.02)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return wrap(model, tiny_tokenizer(), family)


class PlainWithOwnCache(Plain):
    """The same computations by transformers alone, with the cache that the family makes for itself."""

    def __init__(self, lm: LanguageModel, rule: ThoughtRule) -> None:
        super().__init__(lm, rule)
        self.cache = DynamicCache(config=lm.model.config)
        self.position = 0

    def feed(self, token_ids: Any) -> "PlainWithOwnCache":
        """One forward a token: some families cannot continue a state by several."""
        for token in token_ids:
            super().feed([token])
        return self

    @property
    def _arguments(self) -> dict[str, object]:
        """With the position of the one input: Bamba begins at 0 again behind a cache."""
        self.position += 1
        return {**super()._arguments, "position_ids": torch.tensor([[self.position - 1]])}


def cached(plain: Plain) -> list[Tensor]:
    """What transformers has cached for every token, [H, T, D] each, layer by layer."""
    both = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in plain.cache.layers]
    return [one[0] for tensors in both for one in tensors if one is not None]
