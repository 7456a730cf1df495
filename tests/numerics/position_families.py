"""Small random models whose layers differ in what they see and in how they are rotated, by what they are for.

Windows are far shorter than the prompts of the tests, so that every mask matters.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    Ernie4_5Config,
    Exaone4Config,
    Gemma2Config,
    Gemma3TextConfig,
    Glm4Config,
    GptOssConfig,
    HeliumConfig,
    Llama4TextConfig,
    LlamaConfig,
    Ministral3Config,
    MinistralConfig,
    MistralConfig,
    Olmo3Config,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    SmolLM3Config,
)

from latentmas_ray.models import LanguageModel, wrap
from latentmas_ray.models.presets import tiny_tokenizer
from tests.numerics.families import BASE, GQA

WINDOW = 8
SOME = ["sliding_attention", "full_attention"]
_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + index / 8 for index in range(8)],
    "long_factor": [2.0 + index for index in range(8)],
    "original_max_position_embeddings": 256,
}

WINDOWED: dict[str, Callable[[], PretrainedConfig]] = {
    # A small cap, so that scores as small as these feel it.
    "gemma2": lambda: Gemma2Config(
        **GQA, head_dim=16, sliding_window=WINDOW, attn_logit_softcapping=0.1, query_pre_attn_scalar=4
    ),
    "gemma3-window": lambda: Gemma3TextConfig(
        **{**GQA, "num_hidden_layers": 3},
        head_dim=16,
        sliding_window=WINDOW,
        layer_types=[*SOME, SOME[0]],
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "gpt_oss": lambda: GptOssConfig(
        **GQA, **_EXPERTS, head_dim=16, sliding_window=WINDOW, layer_types=SOME, rope_parameters=None
    ),
    "qwen2-window": lambda: Qwen2Config(**GQA, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "mistral-window": lambda: MistralConfig(**GQA, sliding_window=WINDOW),
    "ministral": lambda: MinistralConfig(**GQA, head_dim=16, sliding_window=WINDOW, layer_types=SOME),
    "olmo3": lambda: Olmo3Config(**GQA, sliding_window=WINDOW, layer_types=SOME),
    "cohere2": lambda: Cohere2Config(**GQA, sliding_window=WINDOW, layer_types=SOME, logit_scale=0.5),
    "exaone4": lambda: Exaone4Config(**GQA, sliding_window=WINDOW, layer_types=SOME),
    "smollm3": lambda: SmolLM3Config(
        **GQA, no_rope_layers=[1, 0], use_sliding_window=True, sliding_window=WINDOW, layer_types=None
    ),
}
ROTATED: dict[str, Callable[[], PretrainedConfig]] = {
    "cohere": lambda: CohereConfig(**GQA, logit_scale=0.5),
    "glm4": lambda: Glm4Config(**GQA, head_dim=16),
    "helium": lambda: HeliumConfig(**GQA, head_dim=16),
    "ernie4_5": lambda: Ernie4_5Config(**GQA, head_dim=16),
    "smollm3-nope": lambda: SmolLM3Config(**GQA, no_rope_layers=[1, 0]),
    "llama4": lambda: Llama4TextConfig(
        **GQA, **{**_EXPERTS, "num_experts_per_tok": 1}, head_dim=16, intermediate_size_mlp=96, no_rope_layers=[1, 0]
    ),
    "longrope": lambda: Phi3Config(**GQA, rope_parameters=_LONG, original_max_position_embeddings=256),
    "dynamic": lambda: LlamaConfig(
        **{**GQA, "max_position_embeddings": 256},
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    ),
    "ministral3": lambda: Ministral3Config(
        **GQA,
        head_dim=16,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 256,
            "llama_4_scaling_beta": 0.1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
        },
    ),
}
ALL = {**WINDOWED, **ROTATED}
assert BASE["hidden_size"] == 64, "heads of 16"


def build(config: PretrainedConfig, seed: int = 17) -> PreTrainedModel:
    """A model with random weights, also where a family begins with zeros or ones, with the family's own attention."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "sinks")):
                torch.nn.init.normal_(parameter, std=0.5 if name.endswith("sinks") else 0.02)
    return model.eval()


def make(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    model = build(ALL[family]())
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return wrap(model, tiny_tokenizer(), family)
