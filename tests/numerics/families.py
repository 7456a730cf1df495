"""Small random models of every supported family. Their weights are small enough that a rounding difference does not
grow from one latent step to the next, and large enough that a wrong position or neighbour shows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from latentmas_ray.models import LanguageModel, wrap
from latentmas_ray.models.presets import tiny_tokenizer

BASE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "initializer_range": 0.06,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
}
GQA = {**BASE, "num_key_value_heads": 2}
MHA = {**BASE, "num_key_value_heads": 4}


def scaled(kind: str, **parameters: float) -> PretrainedConfig:
    """Llama with a scaled RoPE that was made for 64 positions."""
    return LlamaConfig(
        **{**GQA, "max_position_embeddings": 256},
        rope_parameters={"rope_type": kind, "rope_theta": 10_000.0, **parameters},
    )


def gemma3(**changes: Any) -> PretrainedConfig:
    own = {"head_dim": 16, "num_key_value_heads": 1, "layer_types": ["full_attention"] * 2, "tie_word_embeddings": True}
    return Gemma3TextConfig(**{**BASE, **own, **changes})


FAMILIES: dict[str, tuple[type[PreTrainedModel], Callable[[], PretrainedConfig]]] = {
    "qwen3": (Qwen3ForCausalLM, lambda: Qwen3Config(**GQA, head_dim=32)),
    "qwen3-tied": (Qwen3ForCausalLM, lambda: Qwen3Config(**{**GQA, "tie_word_embeddings": True}, head_dim=16)),
    "llama": (LlamaForCausalLM, lambda: LlamaConfig(**GQA)),
    "mistral": (MistralForCausalLM, lambda: MistralConfig(**GQA, sliding_window=None)),
    "qwen2": (Qwen2ForCausalLM, lambda: Qwen2Config(**{**MHA, "tie_word_embeddings": True})),
    "gemma3": (Gemma3ForCausalLM, gemma3),
    "neox": (GPTNeoXForCausalLM, lambda: GPTNeoXConfig(**BASE, rotary_pct=0.25)),
}
SCALED: dict[str, tuple[type[PreTrainedModel], Callable[[], PretrainedConfig]]] = {
    "linear": (LlamaForCausalLM, lambda: scaled("linear", factor=4.0)),
    "llama3": (
        LlamaForCausalLM,
        lambda: scaled(
            "llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
        ),
    ),
    "yarn": (LlamaForCausalLM, lambda: scaled("yarn", factor=4.0, original_max_position_embeddings=64)),
    "neox-linear": (
        GPTNeoXForCausalLM,
        lambda: GPTNeoXConfig(
            **BASE,
            rope_parameters={
                "rope_type": "linear",
                "rope_theta": 10_000.0,
                "factor": 2.0,
                "partial_rotary_factor": 0.5,
            },
        ),
    ),
}


def make_lm(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """The same weights for the same family, whatever was made before."""
    if family not in FAMILIES and family not in SCALED:
        from tests.numerics.position_families import make  # which has what these are made of

        return make(family, dtype)
    build, config = {**FAMILIES, **SCALED}[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        model = build(config())
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # they begin as zeros, which would hide a forgotten one
                torch.nn.init.normal_(parameter, std=0.02)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return wrap(model, tiny_tokenizer(), family)


def with_limit(lm: LanguageModel, max_positions: int) -> LanguageModel:
    """The same model, made for fewer positions."""
    limited = replace(lm, name=f"{lm.name}-{max_positions}")
    limited.model.config.max_position_embeddings = max_positions
    return limited
