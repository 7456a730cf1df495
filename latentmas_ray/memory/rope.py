"""Moving cached keys to other positions. RoPE is a rotation, so a key at position p becomes the key at p + Δ by one
more rotation of Δ (RoFormer, arXiv 2104.09864, eq. 15).

Dimensions: H KV heads, T tokens, D head dim, R rotary dim.
"""

import torch
from torch import Tensor

from latentmas_ray.memory.spec import RopeSpec


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
