"""What a model does to its vocabulary projection before it returns logits: found from the logits of one forward.

Configurations say it under many names, as a factor or as a divisor, and not every class of a family does it.

Dimensions: V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import PretrainedConfig

from latentmas_ray.models.kv_spec import text_config

_SATURATED = 0.9  # of a cap, above which its inverse is not exact
_NEAR = 1e-3  # relative: the factor is taken for a number of the configuration


def find_factor(plain_V: Tensor, logits_V: Tensor, cap: float | None, config: PretrainedConfig) -> float:
    """Return f of logits = f · x, or of c · tanh(f · x / c) with a cap c, for a projection x: its least-squares fit, or
    the number of the configuration, or its inverse, that is so near that rounding explains the rest."""
    wanted_V = logits_V.double()
    used_V = torch.isfinite(wanted_V) & (wanted_V > torch.finfo(logits_V.dtype).min / 2)  # some hide a few tokens
    if cap is not None:
        used_V &= wanted_V.abs() < _SATURATED * cap
        wanted_V = cap * torch.atanh((wanted_V / cap).clamp(-_SATURATED, _SATURATED))
    x_V = plain_V.double()[used_V]
    squares = float(x_V.square().sum())
    fitted = float((x_V * wanted_V[used_V]).sum()) / squares if squares else 1.0
    near = [one for one in (1.0, *_numbers(config)) if abs(one - fitted) <= _NEAR * abs(fitted)]
    return min(near, key=lambda one: abs(one - fitted), default=fitted)


def numbers_of(config: PretrainedConfig) -> list[float]:
    """Return the fractional numbers of a text decoder's configuration."""
    return [value for value in vars(text_config(config)).values() if type(value) is float and value]


def _numbers(config: PretrainedConfig) -> Iterator[float]:
    """Yield the fractional numbers of a configuration, and the inverse of each number."""
    yield from numbers_of(config)
    yield from (1 / value for value in vars(text_config(config)).values() if type(value) in (int, float) and value)
