"""What each layer of a model caches at its full size, without its weights: a model of its configuration with one layer
of each kind, which computes little and caches as much, runs over one token. Its weights have no values."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PretrainedConfig

from latentmas_ray.memory import LayerSpec, TensorSpec
from latentmas_ray.memory.layer_spec import DTYPES, interned
from latentmas_ray.models.abilities.quirks import QUIRKS
from latentmas_ray.models.abilities.shrink import layer_kinds, layer_labels, shrink
from latentmas_ray.models.kv_spec import text_config
from latentmas_ray.models.language_model import decoder_of
from latentmas_ray.models.layers import CachedLayer, cached_layers
from latentmas_ray.models.load import auto_class

_TOKEN = 1  # whatever it is, it takes as much


def full_layers(config: PretrainedConfig, small: Sequence[LayerSpec], dtype: str) -> tuple[LayerSpec, ...] | None:
    """The spec of every layer of a model in `dtype`. `small` are those of its small model (`shrink`), which say what
    the tensors are; None where these layers do not stand for those of the model."""
    text = text_config(config)
    chosen, kinds = layer_kinds(text)
    if any("num_hidden_layers" in QUIRKS.get(one.model_type, {}) for one in (config, text)):
        first = dict(reversed(list(zip(layer_labels(text_config(shrink(config))), small, strict=False))))
        small = [first[label] for label in map(layer_labels(text).__getitem__, chosen) if label in first]
    if len(small) != len(chosen):
        return None
    few = shrink(config, keeps_cache=True)
    with torch.device("meta"):
        model = auto_class(few).from_config(few, trust_remote_code=False, dtype=DTYPES[dtype])
    model.to_empty(device="cpu").eval()
    with torch.inference_mode():
        found = cached_layers(decoder_of(model), torch.device("cpu"), _TOKEN, config.model_type)
    window = getattr(text, "sliding_window", None)
    layers = [_sized(spec, layer, window) for spec, layer in zip(small, found, strict=True)]
    return tuple(layers[kind] for kind in kinds)


def _sized(spec: LayerSpec, layer: CachedLayer, window: int | None) -> LayerSpec:
    """The layer's spec with the sizes that were found."""
    names = {kind: text for text, kind in DTYPES.items()}
    tensors = [
        replace(one, num_heads=other.num_heads, head_dim=other.head_dim, dtype=names[other.dtype])
        for one, other in zip(spec.slot_tensors, layer.tensors, strict=True)
    ]
    states = [TensorSpec.state(state.name, state.dims, names[state.dtype]) for state in layer.states]
    return interned(LayerSpec((*tensors, *states), window if spec.window is not None else None))
