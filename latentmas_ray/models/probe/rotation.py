"""How the keys of each layer depend on their positions: found by moving keys and comparing with those computed there.

Dimensions: L layers, H KV heads, T tokens, D head dim.
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
    either kind of pairs."""
    by_kind = {key: str(own.get("rope_type", "default")) for key, own in rope_parameters(config).items()}
    found: list[RopeSpec | None] = [None]
    for key, buffer in decoder.named_buffers():
        own_name = key.rpartition(".")[2]
        if not own_name.endswith("inv_freq") or own_name.endswith("original_inv_freq") or buffer.ndim != 1:
            continue
        layer_kind = own_name.removesuffix("inv_freq").removesuffix("_")
        kind = by_kind.get(layer_kind, by_kind.get("", "default"))
        inv_freq = tuple(float(frequency) for frequency in buffer.float().cpu())
        found += [RopeSpec(label_of(kind), inv_freq, pairs) for pairs in (False, True)]
    if len(found) == 1 and rope_parameters(config):  # they are computed from the configuration in every forward
        plain = rope_spec(config, name)
        found += [plain, RopeSpec(plain.kind, plain.inv_freq, True)]
    return list(dict.fromkeys(found))


def errors_of(keys_LHTD: Tensor, moved_LHTD: Tensor, shift: int, ropes: Sequence[RopeSpec | None]) -> Tensor:
    """The largest difference between moved keys and those computed there, relative to the largest of these, of each
    layer with each rotation, [L, number of them]; infinite where it does not fit the head dim."""
    scale_L = moved_LHTD.float().flatten(1).abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny)
    columns = []
    for rope in ropes:
        if rope is not None and rope.rotary_dim > keys_LHTD.shape[-1]:
            columns.append(torch.full_like(scale_L, torch.inf))
            continue
        difference = rotate_keys(keys_LHTD, shift, rope).float() - moved_LHTD.float()
        columns.append(difference.flatten(1).abs().amax(1) / scale_L)
    return torch.stack(columns, dim=1).nan_to_num(torch.inf)


def choose(errors: Tensor, ropes: Sequence[RopeSpec | None], tolerance: float, name: str) -> list[RopeSpec | None]:
    """The rotation of each layer with the smallest error. Raises ModelError if it is above the tolerance."""
    best_L = errors.argmin(dim=1).tolist()
    for layer, best in enumerate(best_L):
        error = float(errors[layer, best])
        if not error <= tolerance:
            expected = f"its cached keys must be movable by RoPE, or have no positions; those of layer {layer}"
            raise ModelError(
                "model", name, f"{expected} are moved by no rotation it holds (relative error {error:.2g})"
            )
    return [ropes[best] for best in best_L]
