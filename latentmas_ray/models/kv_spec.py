"""What a transformers configuration says of a model's KV cache and of its positions: nothing is loaded."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import LinearAttentionCacheLayerMixin
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from latentmas_ray.errors import ModelError
from latentmas_ray.memory import KVCacheSpec, LayerSpec, RopeSpec, TensorSpec, TPRank
from latentmas_ray.memory.layer_spec import DTYPES, ROPE_KINDS, interned
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.models.layers.shapes import CachedLayer
from latentmas_ray.placement.model_dims import AttentionDims, attention_dims

_NO_ROPE = (
    "it must use rotary positions (RoPE), and its configuration has no rope_parameters: what other positions, learned "
    "ones or ALiBi, are added to cannot be moved; use a model with RoPE, as most are since Llama"
)
# Kinds of layers, as transformers names them, that take in what is before a token: as keys, all or a window of them, or
# summed up in a state. What a layer sees is read off its mask, and what it caches off its cache.
_WITH_KEYS = {"full_attention", "sliding_attention", "chunked_attention", "attention", "hybrid", "hybrid_sliding"}
_LAYER_TYPES = _WITH_KEYS | {"linear_attention", "mamba", "conv", "moe", "mlp"}
_NO_ID = (
    "token's id (per-layer embeddings), and a thought has no id: use a size of the family without, as larger ones are"
)
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
_COUNTS_OF_LAYERS = ("num_hidden_layers", "num_layers", "layers_block_type")
_FIELDS = (
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
    "hidden_size",
    "head_dim",
    "kv_lora_rank",
    "qk_rope_head_dim",
    "layer_types",
    "layers_block_type",
    "num_kv_shared_layers",
)


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a configuration that describes the text decoder; of a model for text alone it is the whole."""
    return config.get_text_config(decoder=True)


def config_dims(config: PretrainedConfig) -> AttentionDims:
    """The attention sizes of the text decoder. Raises KeyError, TypeError or ValueError if one is missing or wrong."""
    config = text_config(config)
    own = vars(config)  # where layers have sizes of their own, transformers raises for the attribute of all
    known = (field for field in _FIELDS if field in own or hasattr(config, field))
    return attention_dims({field: own[field] if field in own else getattr(config, field) for field in known})


def kv_cache_spec(
    config: PretrainedConfig, name: str, *, architecture: str, dtype: str, weights_revision: str, rope: RopeSpec | None
) -> KVCacheSpec:
    """The spec of the whole model's KV cache, all layers with this RoPE, without windows, states and layers that cache
    no keys: what a configuration says of them is not always what a model computes, which `models.probe` finds out."""
    dims = config_dims(config)
    return KVCacheSpec(
        architecture=architecture,
        layers=(_layer(dims, dtype, rope),) * (dims.num_layers - dims.num_other_layers),
        hidden_size=dims.hidden_size,
        dtype=dtype,
        weights_revision=weights_revision,
    )


def _layer(dims: AttentionDims, dtype: str, rope: RopeSpec | None) -> LayerSpec:
    if dims.latent_dim:
        return interned(LayerSpec.latent(dims.latent_dim, dims.rotary_key_dim, dtype, rope))
    return interned(LayerSpec.attention(dims.num_kv_heads, dims.head_dim, dtype, rope))


def probed_spec(
    config: PretrainedConfig,
    name: str,
    layers: Sequence[CachedLayer],
    *,
    architecture: str,
    dtype: str,
    weights_revision: str,
    shard: TPRank = WHOLE,
) -> KVCacheSpec:
    """The spec of a model, or of its shard, that caches this by layer; the probe adds how its keys move, and its
    windows. Raises ModelError for one that caches nothing, and for one that attends to chosen tokens only."""
    if not any(layer.tensors for layer in layers):
        expected = "at least one of its layers must cache keys, as attention does in transformers; none does"
        raise ModelError("model", name, expected)
    if any(layer.has_indexer for layer in layers):
        expected = "all layers must attend to everything before them; here an indexer chooses the tokens"
        chosen = getattr(text_config(config), "index_topk", None)
        raise ModelError("model", name, f"{expected} (sparse attention{f', index_topk={chosen}' if chosen else ''})")
    spec = KVCacheSpec(
        architecture=architecture,
        layers=tuple(map(_probed_layer, layers)),
        hidden_size=config_dims(config).hidden_size,
        dtype=dtype,
        weights_revision=weights_revision,
        shard=shard,
    )
    if shard.world_size > 1 and not spec.is_uniform:
        raise ModelError("tp", shard.world_size, f"it must be 1: the layers of {name} do not all cache the same")
    return spec


def _probed_layer(layer: CachedLayer) -> LayerSpec:
    dtypes = {kind: text for text, kind in DTYPES.items()}
    names = ("key", "value")
    if [one.moves for one in layer.tensors] == [False, True]:  # the key's rotary part comes second
        names = ("latent", "rotary_key")
    tensors = [
        TensorSpec(own_name, one.num_heads, one.head_dim, dtypes[one.dtype])
        for own_name, one in zip(names, layer.tensors, strict=False)
    ]
    states = [TensorSpec.state(state.name, state.dims, dtypes[state.dtype]) for state in layer.states]
    return interned(LayerSpec((*tensors, *states)))


def keeps_states(config: PretrainedConfig) -> bool:
    """Whether layers of a model keep states (linear attention, a state-space layer), as its own cache says."""
    layers = DynamicCache(config=text_config(config)).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def largest_window(config: PretrainedConfig) -> int | None:
    """The largest sliding window of a model whose layers all have one, according to its configuration; None for one
    with a layer that sees everything, or keeps a state."""
    layers = DynamicCache(config=text_config(config)).layers
    windows = [window for layer in layers if isinstance(window := getattr(layer, "sliding_window", None), int)]
    if not windows or len(windows) < len(layers):
        return None
    limit, largest = max_positions(config), max(windows)
    return largest if limit is None or largest < limit else None


def check_attention(config: PretrainedConfig, name: str) -> None:
    """Raises ModelError for a configuration of no decoder, of layers of unknown kinds, or of a model without rotary
    positions."""
    whole, config = config, text_config(config)
    if not any(hasattr(config, field) for field in _COUNTS_OF_LAYERS):
        expected = "it must be a language model with one stack of decoder layers, and the configuration of this one has"
        parts = ", ".join(key for key in whole.sub_configs if getattr(whole, key, None) is not None)
        made_of = f": it is made of parts ({parts})" if parts else ""
        raise ModelError("model", name, f"{expected} no num_hidden_layers{made_of}")
    kinds = set(getattr(config, "layer_types", None) or ())
    if other := sorted(kinds - _LAYER_TYPES):
        expected = "its layers must take in what is before a token: all of it, a sliding window of it, or as a state;"
        expected += f" this one has {', '.join(other)}"
        if (num_chosen := getattr(config, "index_topk", None)) is not None:
            expected += f", where an indexer chooses {num_chosen} tokens (sparse attention)"
        raise ModelError("model", name, expected)
    if size := getattr(config, "hidden_size_per_layer_input", None):
        expected = f"its layers must take in embeddings alone; each layer of this one also gets {size} numbers by the"
        raise ModelError("model", name, f"{expected} {_NO_ID}")
    if kinds and not kinds & _WITH_KEYS:
        expected = "at least one of its layers must attend to tokens; all of this one keep states instead"
        raise ModelError("model", name, f"{expected} ({', '.join(sorted(kinds))}): use a hybrid with some attention")
    _check_sizes(config, name)  # after the kinds of layers, some of which leave a size at 0
    if not rope_parameters(config) and not keeps_states(config):  # where states give the order, keys need not
        raise ModelError("model", name, _NO_ROPE)


def _check_sizes(config: PretrainedConfig, name: str) -> None:
    for field in _SIZES:
        value = vars(config).get(field)
        if type(value) is int and value < 1:
            raise ModelError("model", name, f"the sizes in its configuration must be at least 1; {field} is {value}")


def rope_spec(config: PretrainedConfig, name: str) -> RopeSpec:
    """The RoPE of the full-attention layers according to a configuration. Raises ModelError for one without RoPE or of
    an unknown kind."""
    config = text_config(config)
    by_layer = rope_parameters(config)
    if not by_layer:
        raise ModelError("model", name, _NO_ROPE)
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
    config = text_config(config)
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
