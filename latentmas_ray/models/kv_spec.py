"""What a transformers configuration says of a model's KV cache and of its positions: nothing is loaded."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from latentmas_ray.errors import ModelError
from latentmas_ray.memory import KVCacheSpec, RopeSpec
from latentmas_ray.memory.layer_spec import ROPE_KINDS
from latentmas_ray.placement.model_dims import AttentionDims, attention_dims

# Kinds of layers whose attention the engine knows; what a layer sees is read off its mask.
_LAYER_TYPES = ("full_attention", "sliding_attention", "chunked_attention")
_FIELDS = ("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "hidden_size", "head_dim")


def config_dims(config: PretrainedConfig) -> AttentionDims:
    """The attention sizes of a configuration. Raises KeyError, TypeError or ValueError if one is missing or invalid."""
    return attention_dims({field: getattr(config, field) for field in _FIELDS if hasattr(config, field)})


def kv_cache_spec(
    config: PretrainedConfig, name: str, *, architecture: str, dtype: str, weights_revision: str, rope: RopeSpec | None
) -> KVCacheSpec:
    """The spec of the whole model's KV cache, all layers with this RoPE and without windows: what a configuration says
    of them is not always what a model computes, which `models.probe` finds out."""
    dims = config_dims(config)
    return KVCacheSpec.uniform(
        architecture=architecture,
        num_layers=dims.num_layers,
        num_kv_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        hidden_size=dims.hidden_size,
        dtype=dtype,
        rope=rope,
        weights_revision=weights_revision,
    )


def check_attention(config: PretrainedConfig, name: str) -> None:
    """Raises ModelError for a configuration of layers without keys, or of a model without rotary positions."""
    other = sorted(set(getattr(config, "layer_types", None) or ()) - set(_LAYER_TYPES))
    if other:
        expected = "all its layers must attend with keys to what is before a token, all of it or a sliding window;"
        raise ModelError("model", name, f"{expected} this one has {', '.join(other)}")
    if not rope_parameters(config):
        raise ModelError("model", name, "it must use rotary positions (RoPE); its configuration has none")


def rope_spec(config: PretrainedConfig, name: str) -> RopeSpec:
    """The RoPE of the full-attention layers according to a configuration. Raises ModelError for one without RoPE or of
    an unknown kind."""
    by_layer = rope_parameters(config)
    if not by_layer:
        raise ModelError("model", name, "it must use rotary positions (RoPE); its configuration has none")
    layer_type = "full_attention" if "full_attention" in by_layer else next(iter(by_layer))
    own = by_layer[layer_type]
    kind = own.get("rope_type", "default")
    if kind != "default" and kind not in ROPE_INIT_FUNCTIONS:
        kinds = ", ".join(["default", *ROPE_INIT_FUNCTIONS])
        raise ModelError("model", name, f"its RoPE is of kind {kind!r}; transformers has {kinds}")
    if kind == "default":
        rotary_dim = int(config_dims(config).head_dim * own.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float) / rotary_dim
        inv_freq = 1.0 / (own["rope_theta"] ** exponents)
    else:
        extra = {"layer_type": layer_type} if layer_type else {}
        inv_freq, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), **extra)
    return RopeSpec(label_of(kind), tuple(float(f) for f in inv_freq))


def label_of(kind: str) -> str:
    """The kind of a RoPE in a spec. Up to a model's last position the frequencies of every kind are fixed."""
    return kind if kind in ROPE_KINDS else "default"


def rope_parameters(config: PretrainedConfig) -> dict[str, Mapping[str, Any]]:
    """The RoPE parameters of a configuration by type of layer; under "" if all layers have the same; empty if it has
    none."""
    parameters: Mapping[str, Any] = getattr(config, "rope_parameters", None) or {}
    nested: dict[str, Mapping[str, Any]] = {str(key): own for key, own in parameters.items() if isinstance(own, dict)}
    if nested or not parameters:
        return nested
    return {"": parameters}


def max_positions(config: PretrainedConfig) -> int | None:
    """The number of positions that can be used, see `position_limit`; None if there is no limit."""
    limit = position_limit(config)
    return None if limit is None else limit.num_positions


@dataclass(frozen=True, kw_only=True)
class PositionLimit:
    """The number of positions of a model, and why they are not more if the model is made for more."""

    num_positions: int
    reason: str = ""


def position_limit(config: PretrainedConfig) -> PositionLimit | None:
    """The positions for which a model is made and for which what it computes depends on distances alone, so that keys
    can be moved; None without a limit.

    A model is made for `max_position_embeddings`, except where that is the length before RoPE was stretched, as vLLM
    reads it: yarn makes `factor` × `original_max_position_embeddings`, linear and dynamic make `factor` ×
    `max_position_embeddings`. llama3 and longrope have the new length in `max_position_embeddings`. Some compute
    otherwise beyond a length; only the positions up to it are used.
    """
    limits = [*_made_for(config), *_regimes(config)]
    return min(limits, key=lambda limit: limit.num_positions) if limits else None


def _made_for(config: PretrainedConfig) -> Iterator[PositionLimit]:
    limit = getattr(config, "max_position_embeddings", None)
    if not limit:
        return
    by_layer = rope_parameters(config)
    own = by_layer.get("full_attention") or next(iter(by_layer.values()), {})
    kind, factor = own.get("rope_type", "default"), own.get("factor")
    if not isinstance(factor, int | float) or not math.isfinite(factor) or factor < 1:
        factor = 1
    if kind == "yarn":
        limit = factor * (own.get("original_max_position_embeddings") or limit)
    elif kind in ("linear", "dynamic"):
        limit = factor * limit
    yield PositionLimit(num_positions=int(limit))


def _regimes(config: PretrainedConfig) -> Iterator[PositionLimit]:
    """The lengths from which on a model computes otherwise."""
    for own in rope_parameters(config).values():
        kind, original = own.get("rope_type"), own.get("original_max_position_embeddings")
        if kind == "longrope" and original:
            yield PositionLimit(
                num_positions=int(original), reason=f"its RoPE (longrope) has other frequencies beyond {original}"
            )
        if kind == "dynamic" and (most := getattr(config, "max_position_embeddings", None)):
            yield PositionLimit(num_positions=most, reason=f"its RoPE (dynamic) changes with the length beyond {most}")
        if own.get("llama_4_scaling_beta") and original:
            yield PositionLimit(
                num_positions=int(original), reason=f"it scales attention by the position from {original} on"
            )
    size = getattr(config, "attention_chunk_size", None)
    if size and "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        yield PositionLimit(num_positions=size, reason=f"layers see chunks of {size} positions")
    if scales_by_length(config):
        size = int(config.floor_scale)
        yield PositionLimit(num_positions=size - 1, reason=f"it scales attention by the position from {size} on")


def may_have_windows(config: PretrainedConfig) -> bool:
    """Whether a configuration speaks of sliding windows; what a loaded model computes decides (`models.probe`)."""
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if kinds:
        return "sliding_attention" in kinds
    limit = max_positions(config)
    return window is not None and window > 0 and (limit is None or window < limit)


def scales_by_length(config: PretrainedConfig) -> bool:
    """Whether layers without RoPE scale their queries by the position, which they take from the cache's length: Llama 4
    (its `attn_temperature_tuning`)."""
    is_tuned = getattr(config, "attn_temperature_tuning", False) and getattr(config, "floor_scale", None)
    return bool(is_tuned) and 0 in (getattr(config, "no_rope_layers", None) or ())
