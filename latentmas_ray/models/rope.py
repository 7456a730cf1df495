"""The RoPE of a transformers configuration, as the memory package describes it."""

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from latentmas_ray.errors import ModelError
from latentmas_ray.memory import RopeSpec
from latentmas_ray.memory.rope import ROPE_KINDS


def rope_spec(config: PretrainedConfig, name: str) -> RopeSpec:
    """Frequencies per position of the full-attention layers.

    Raises ModelError for a model without RoPE and for scaled kinds whose frequencies depend on the length
    (dynamic, longrope), because their keys cannot be moved.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise ModelError("model", name, "it must use rotary positions (RoPE); its configuration has none")
    nested = isinstance(parameters.get("full_attention"), dict)
    own = parameters["full_attention"] if nested else parameters
    kind = own.get("rope_type", "default")
    if kind not in ROPE_KINDS:
        raise ModelError("model", name, f"its RoPE is of kind {kind!r}; keys can be moved for {', '.join(ROPE_KINDS)}")
    if kind == "default":
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rotary_dim = int(head_dim * own.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float) / rotary_dim
        inv_freq = 1.0 / (own["rope_theta"] ** exponents)
    else:
        extra = {"layer_type": "full_attention"} if nested else {}
        inv_freq, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), **extra)
    return RopeSpec(kind, tuple(float(f) for f in inv_freq))
