"""Moving cached keys to other positions. RoPE is a rotation, so a key at position p becomes the key at p + Δ by one
more rotation of Δ (RoFormer, arXiv 2104.09864, eq. 15).

Dimensions: H KV heads, T tokens, D head dim, R rotary dim.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.errors import IncompatibleMemoryError

# Scaled kinds whose frequencies do not depend on how long the sequence is, so that a rotation can be continued.
ROPE_KINDS = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding: component pair i turns by `inv_freq[i]` radians a position.

    The pairs are (i, i + R/2) of the first R dimensions of a head. `inv_freq` already contains the scaling of
    `kind`; a factor that yarn multiplies keys with is part of the cached keys and plays no role in a rotation.
    """

    kind: str
    inv_freq: tuple[float, ...]  # [R/2]

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise IncompatibleMemoryError(f"RoPE kind {self.kind!r} is not one of {', '.join(ROPE_KINDS)}")
        if not all(map(math.isfinite, self.inv_freq)):
            raise IncompatibleMemoryError(f"RoPE frequencies must be finite: {self.inv_freq}")

    @property
    def rotary_dim(self) -> int:
        return 2 * len(self.inv_freq)


def rotate_keys(keys_HTD: Tensor, shift: int, rope: RopeSpec) -> Tensor:
    """Keys of positions p as keys of positions p + `shift`; leading dimensions are free, [..., T, D].

    Computed in fp32 whatever the dtype, angles in fp64, so that a long shift costs no precision. Returns a new
    tensor (or `keys_HTD` itself for shift 0). Dimensions behind the rotary ones, and a factor that a scaled kind
    had multiplied in, stay as they are.
    """
    if shift == 0:
        return keys_HTD
    angles = shift * torch.tensor(rope.inv_freq, dtype=torch.float64)
    cos = angles.cos().to(keys_HTD.device, torch.float32)
    sin = angles.sin().to(keys_HTD.device, torch.float32)
    half = len(rope.inv_freq)
    first, second = keys_HTD[..., :half].float(), keys_HTD[..., half : 2 * half].float()
    out = keys_HTD.clone()
    out[..., :half] = first * cos - second * sin
    out[..., half : 2 * half] = second * cos + first * sin
    return out
