"""The KV cache spec of a model, read from its transformers configuration: nothing is loaded."""

import math
from collections.abc import Mapping, Sequence
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


def config_dims(config: PretrainedConfig) -> AttentionDims:
    """The attention sizes of a configuration. Raises KeyError, TypeError or ValueError if one is missing or invalid."""
    return attention_dims({field: getattr(config, field) for field in _FIELDS if hasattr(config, field)})


def kv_cache_spec(
    config: PretrainedConfig,
    name: str,
    *,
    architecture: str,
    dtype: str,
    weights_revision: str,
) -> KVCacheSpec:
    """The spec of the whole model's KV cache as its configuration describes it, without states and layers that cache
    no keys. Raises ModelError for a model whose keys cannot be moved."""
    dims = config_dims(config)
    return KVCacheSpec(
        architecture=architecture,
        layers=(_layer(dims, dtype, rope_spec(config, name)),) * (dims.num_layers - dims.num_other_layers),
        hidden_size=dims.hidden_size,
        dtype=dtype,
        weights_revision=weights_revision,
    )


def _layer(dims: AttentionDims, dtype: str, rope: RopeSpec) -> LayerSpec:
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
    """The spec of a model, or of its shard, that caches this by layer. Raises ModelError for one that caches nothing,
    for one whose keys cannot be moved, and for one that attends to chosen tokens only."""
    if not any(layer.tensors for layer in layers):
        expected = "at least one of its layers must cache keys, as attention does in transformers; none does"
        raise ModelError("model", name, expected)
    if any(layer.has_indexer for layer in layers):
        expected = "all layers must attend to everything before them; here an indexer chooses the tokens"
        chosen = getattr(config, "index_topk", None)
        raise ModelError("model", name, f"{expected} (sparse attention{f', index_topk={chosen}' if chosen else ''})")
    moves = any(tensor.moves for layer in layers for tensor in layer.tensors)
    rope = rope_spec(config, name) if moves else None
    spec = KVCacheSpec(
        architecture=architecture,
        layers=tuple(_probed_layer(layer, rope, name) for layer in layers),
        hidden_size=config_dims(config).hidden_size,
        dtype=dtype,
        weights_revision=weights_revision,
        shard=shard,
    )
    if shard.world_size > 1 and not spec.is_uniform:
        raise ModelError("tp", shard.world_size, f"it must be 1: the layers of {name} do not all cache the same")
    return spec


def _probed_layer(layer: CachedLayer, rope: RopeSpec | None, name: str) -> LayerSpec:
    dtypes = {kind: text for text, kind in DTYPES.items()}
    names = ("key", "value")
    if [one.moves for one in layer.tensors] == [False, True]:  # the key's rotary part comes second
        names = ("latent", "rotary_key")
    tensors = []
    for own_name, one in zip(names, layer.tensors, strict=False):
        if one.moves and rope is not None and rope.rotary_dim > one.head_dim:
            expected = f"its cached keys must be movable by RoPE: they have {one.head_dim} dimensions, and its RoPE"
            raise ModelError("model", name, f"{expected} {rope.rotary_dim}")
        tensors.append(
            TensorSpec(own_name, one.num_heads, one.head_dim, dtypes[one.dtype], rope if one.moves else None)
        )
    states = [TensorSpec.state(state.name, state.dims, dtypes[state.dtype]) for state in layer.states]
    return interned(LayerSpec((*tensors, *states)))


def keeps_states(config: PretrainedConfig) -> bool:
    """Whether layers of a model keep states (linear attention, a state-space layer), as its own cache says."""
    layers = DynamicCache(config=config).layers
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers)


def rope_spec(config: PretrainedConfig, name: str) -> RopeSpec:
    """The RoPE frequencies of the full-attention layers.

    Raises ModelError for a model without RoPE, and for kinds whose frequencies depend on the length (dynamic,
    longrope), because their keys cannot be moved.
    """
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
