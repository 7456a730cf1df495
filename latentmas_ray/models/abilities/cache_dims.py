"""The sizes of a model whose layers do not all cache a key and a value alike, for `placement`. What each caches is
found as for `doctor`, from a random small model of the same kind."""

from collections import Counter
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import torch
from transformers import PretrainedConfig

from latentmas_ray.errors import ModelError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.models.abilities.find import full_spec
from latentmas_ray.models.compat import check_config
from latentmas_ray.models.kv_spec import config_dims, text_config
from latentmas_ray.models.load import auto_class, read_config, translated
from latentmas_ray.placement.model_dims import (
    DTYPE_BYTES,
    CacheSizes,
    ModelDims,
    caches_alike,
    dims_of_config,
)

_DTYPE = "bfloat16"  # in which states of a dtype of their own are known from those of the model's
_MLP_FIELDS = ("intermediate_size", "ffn_hidden_size", "moe_intermediate_size", "ffn_dim", "n_inner")


def cache_dims(name: str, revision: str | None = None, *, stored_parameters: int | None = None) -> ModelDims:
    """Return the sizes of a model folder or hub id. Raises ModelError, also for one that cannot collaborate."""
    return dims_of(read_config(name, revision), name, stored_parameters=stored_parameters)


def dims_of(config: PretrainedConfig, name: str, *, stored_parameters: int | None = None) -> ModelDims:
    """Return the sizes of a model with this configuration; where its layers differ its parameters are counted, unless
    they are known. Raises ModelError for one that cannot collaborate."""
    check_config(config, name)
    if caches_alike(text_config(config).to_dict()):
        with suppress(ModelError):  # sizes by other names
            known = dims_of_config(config.to_dict(), name)
            return known if stored_parameters is None else replace(known, stored_parameters=stored_parameters)
    text, spec = text_config(config), full_spec(config, name, _DTYPE)
    attention = config_dims(config)
    sizes: dict[str, Any] = asdict(attention)
    mlp = next((size for field in _MLP_FIELDS if type(size := getattr(text, field, None)) is int), None)
    dtype = str(config.dtype or _DTYPE).removeprefix("torch.")
    return ModelDims(
        **sizes,
        mlp_size=mlp or 4 * attention.hidden_size,
        vocab_size=int(text.vocab_size),
        is_tied=bool(getattr(config, "tie_word_embeddings", False)),
        dtype=dtype if dtype in DTYPE_BYTES else _DTYPE,
        stored_parameters=stored_parameters or _count_parameters(config, name),
        cache=cache_sizes(spec),
    )


def cache_sizes(spec: KVCacheSpec) -> CacheSizes:
    """Return what the layers of a model in bfloat16 cache."""
    tensors = [tensor for layer in spec.layers for tensor in layer.tensors]
    states = [(tensor.head_dim, tensor.dtype) for tensor in tensors if tensor.state_dims is not None]
    kinds = Counter(str(layer).replace(f" {_DTYPE}", "") for layer in spec.layers)
    return CacheSizes(
        token_numbers=spec.bytes_per_token // DTYPE_BYTES[_DTYPE],
        state_numbers=sum(count for count, dtype in states if dtype == _DTYPE),
        fixed_state_bytes=sum(count * DTYPE_BYTES[dtype] for count, dtype in states if dtype != _DTYPE),
        kinds="; ".join(f"{count} × ({kind})" for kind, count in kinds.items()),
    )


def _count_parameters(config: PretrainedConfig, name: str) -> int:
    """Count the parameters of a model without its weights."""
    with translated(name, "a model of its sizes must work"), torch.device("meta"):
        model = auto_class(config).from_config(config, trust_remote_code=False, dtype=torch.bfloat16)
        counted: int = model.num_parameters()
    if not counted:
        raise ModelError("model", name, "it must have parameters")
    return counted
