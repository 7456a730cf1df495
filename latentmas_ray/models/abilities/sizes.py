"""What each layer of a model caches at its full size, without its weights: a model of its configuration with one layer
of each kind, which computes little and caches as much, runs over one token. Its weights have no values."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PretrainedConfig

from latentmas_ray.memory import LayerSpec, TensorSpec
from latentmas_ray.memory.layer_spec import DTYPES, interned
from latentmas_ray.models.abilities.shrink import layer_kinds, layer_labels, shrink
from latentmas_ray.models.kv_spec import text_config
from latentmas_ray.models.language_model import decoder_of
from latentmas_ray.models.layers import CachedLayer, cached_layers
from latentmas_ray.models.load import auto_class

_TOKEN = 1  # whatever it is, it takes as much


def full_layers(config: PretrainedConfig, small: Sequence[LayerSpec], dtype: str) -> tuple[LayerSpec, ...] | None:
    """The spec of every layer of a model in `dtype`. `small` are those of its small model (`shrink`), which say what
    the tensors are; None where these layers do not stand for those of the model."""
    few = shrink(config, keeps_cache=True)
    with torch.device("meta"):
        model = auto_class(few).from_config(few, trust_remote_code=False, dtype=DTYPES[dtype])
    model.to_empty(device="cpu").eval()
    with torch.inference_mode():
        found = cached_layers(decoder_of(model), torch.device("cpu"), _TOKEN, config.model_type)
    if len(found) != len(small):
        return None
    window = getattr(text_config(config), "sliding_window", None)
    layers = [_sized(spec, layer, window) for spec, layer in zip(small, found, strict=True)]
    return _for_all(layers, text_config(few), text_config(config))


def _for_all(
    layers: Sequence[LayerSpec], few: PretrainedConfig, full: PretrainedConfig
) -> tuple[LayerSpec, ...] | None:
    """The layers of `full`, each like the one of its kind among those of `few`."""
    own, wanted = layer_labels(few), layer_labels(full)
    if not own or len(layers) % len(own):
        return None
    caches = len(layers) // len(own)  # LongCat caches twice in each layer
    place = {label: number for number, label in reversed(list(enumerate(own)))}
    if all(label in place for label in wanted):
        numbers = [place[label] for label in wanted]
    elif len(own) == len(layer_kinds(full)[0]):  # sizes of its own, which are fewer here, tell a layer from others
        numbers = layer_kinds(full)[1]
    else:
        return None
    return tuple(layers[number * caches + place] for number in numbers for place in range(caches))


def _sized(spec: LayerSpec, layer: CachedLayer, window: int | None) -> LayerSpec:
    """The layer's spec with the sizes that were found."""
    names = {kind: text for text, kind in DTYPES.items()}
    tensors = [
        replace(one, num_heads=other.num_heads, head_dim=other.head_dim, dtype=names[other.dtype])
        for one, other in zip(spec.slot_tensors, layer.tensors, strict=True)
    ]
    states = [TensorSpec.state(state.name, state.dims, names[state.dtype]) for state in layer.states]
    return interned(LayerSpec((*tensors, *states), window if spec.window is not None else None))
