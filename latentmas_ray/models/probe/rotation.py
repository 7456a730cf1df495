"""How the keys of each layer depend on their positions: found by moving keys and comparing with those computed there.

Dimensions: H KV heads, R rotations, T tokens, D head dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from latentmas_ray.errors import ModelError
from latentmas_ray.memory import RopeSpec, rotate_keys
from latentmas_ray.models.kv_spec import label_of, rope_parameters, rope_spec


def candidates(decoder: nn.Module, config: PretrainedConfig, name: str) -> list[RopeSpec | None]:
    """What may move the keys of a layer: nothing, or a rotation by one of the frequencies that the model holds, of
    either kind of pairs and in either direction."""
    by_kind = {key: str(own.get("rope_type", "default")) for key, own in rope_parameters(config).items()}
    found: list[RopeSpec | None] = [None]
    for key, buffer in decoder.named_buffers():
        own_name = key.rpartition(".")[2]
        if not own_name.endswith("inv_freq") or own_name.endswith("original_inv_freq") or buffer.ndim != 1:
            continue
        layer_kind = own_name.removesuffix("inv_freq").removesuffix("_")
        kind = by_kind.get(layer_kind, by_kind.get("", "default"))
        frequencies = buffer.float().cpu()
        for inv_freq in (frequencies, -frequencies):  # some rotate the other way round
            turned = tuple(map(float, inv_freq))
            found += [RopeSpec(label_of(kind), turned, pairs) for pairs in (False, True)]
    if len(found) == 1 and rope_parameters(config):  # they are computed from the configuration in every forward
        plain = rope_spec(config, name)
        found += [plain, RopeSpec(plain.kind, plain.inv_freq, True)]
    return list(dict.fromkeys(found))


def errors_of(keys_HTD: Tensor, moved_HTD: Tensor, shift: int, ropes: Sequence[RopeSpec | None]) -> Tensor:
    """The largest difference between one layer's moved keys and those computed there, relative to the largest of these,
    with each rotation; infinite where it does not fit the head dim."""
    scale = moved_HTD.float().abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    errors = []
    for rope in ropes:
        if rope is not None and rope.rotary_dim > keys_HTD.shape[-1]:
            errors.append(torch.full_like(scale, torch.inf))
            continue
        difference = rotate_keys(keys_HTD, shift, rope).float() - moved_HTD.float()
        errors.append(difference.abs().max() / scale)
    return torch.stack(errors).nan_to_num(torch.inf)


def choose(
    errors: Tensor, layers: Sequence[int], ropes: Sequence[RopeSpec | None], tolerance: float, name: str
) -> dict[int, RopeSpec | None]:
    """The rotation with the smallest error of each of these layers, whose errors are the rows. Raises ModelError if it
    is above the tolerance."""
    chosen = {}
    for layer, error_R in zip(layers, errors, strict=True):
        best = int(error_R.argmin())
        if not float(error_R[best]) <= tolerance:
            expected = f"its cached keys must be movable by RoPE, or have no positions; those of layer {layer}"
            reason = f"are moved by no rotation it holds (relative error {float(error_R[best]):.2g})"
            raise ModelError("model", name, f"{expected} {reason}")
        chosen[layer] = ropes[best]
    return chosen
