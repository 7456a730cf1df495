"""The KV cache spec of a model, read from its transformers configuration: nothing is loaded."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from latentmas_ray.errors import ModelError
from latentmas_ray.memory import KVCacheSpec, RopeSpec
from latentmas_ray.memory.layer_spec import ROPE_KINDS
from latentmas_ray.placement.model_dims import AttentionDims, attention_dims

_FIELDS = ("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "hidden_size", "head_dim")


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a configuration that describes the text decoder; of a model for text alone it is the whole."""
    return config.get_text_config(decoder=True)


def config_dims(config: PretrainedConfig) -> AttentionDims:
    """The attention sizes of the text decoder. Raises KeyError, TypeError or ValueError if one is missing or wrong."""
    config = text_config(config)
    return attention_dims({field: getattr(config, field) for field in _FIELDS if hasattr(config, field)})


def kv_cache_spec(
    config: PretrainedConfig, name: str, *, architecture: str, dtype: str, weights_revision: str
) -> KVCacheSpec:
    """The spec of the whole model's KV cache. Raises ModelError for a model whose keys cannot be moved."""
    dims = config_dims(config)
    return KVCacheSpec.uniform(
        architecture=architecture,
        num_layers=dims.num_layers,
        num_kv_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        hidden_size=dims.hidden_size,
        dtype=dtype,
        rope=rope_spec(config, name),
        weights_revision=weights_revision,
    )


def rope_spec(config: PretrainedConfig, name: str) -> RopeSpec:
    """The RoPE frequencies of the full-attention layers.

    Raises ModelError for a model without RoPE, and for kinds whose frequencies depend on the length (dynamic,
    longrope), because their keys cannot be moved.
    """
    config = text_config(config)
    own, nested = _rope_parameters(config)
    if not own:
        raise ModelError("model", name, "it must use rotary positions (RoPE); its configuration has none")
    kind = own.get("rope_type", "default")
    if kind not in ROPE_KINDS:
        raise ModelError("model", name, f"its RoPE is of kind {kind!r}; keys can be moved for {', '.join(ROPE_KINDS)}")
    if kind == "default":
        rotary_dim = int(config_dims(config).head_dim * own.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float) / rotary_dim
        inv_freq = 1.0 / (own["rope_theta"] ** exponents)
    else:
        extra = {"layer_type": "full_attention"} if nested else {}
        inv_freq, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), **extra)
    return RopeSpec(kind, tuple(float(f) for f in inv_freq))


def max_positions(config: PretrainedConfig) -> int | None:
    """The number of positions for which a model is made; None if its configuration has none.

    It is `max_position_embeddings`, except where that is the length before RoPE was stretched, as vLLM reads it: yarn
    makes `factor` × `original_max_position_embeddings`, linear and dynamic make `factor` × `max_position_embeddings`.
    llama3 and longrope have the new length in `max_position_embeddings`.
    """
    config = text_config(config)
    limit = getattr(config, "max_position_embeddings", None)
    if not limit:
        return None
    own, _ = _rope_parameters(config)
    kind, factor = own.get("rope_type", "default"), own.get("factor")
    if not isinstance(factor, int | float) or not math.isfinite(factor) or factor < 1:
        return int(limit)
    if kind == "yarn":
        return int(factor * (own.get("original_max_position_embeddings") or limit))
    return int(factor * limit) if kind in ("linear", "dynamic") else int(limit)


def _rope_parameters(config: PretrainedConfig) -> tuple[Mapping[str, Any], bool]:
    """The RoPE parameters of the full-attention layers, and whether they are kept by kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = isinstance(parameters.get("full_attention"), dict)
    return (parameters["full_attention"] if nested else parameters), nested
