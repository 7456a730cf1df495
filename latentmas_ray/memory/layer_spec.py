"""Which tensors one layer caches.

Dimensions: H KV heads, T tokens, D head dim, R rotary dim (R ≤ D).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch

from latentmas_ray.errors import IncompatibleMemoryError
from latentmas_ray.memory.rope import RopeSpec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that a layer caches, [H, T, D] of one question: H are the heads that are here.

    `rope` tells how its numbers depend on the position; None where they do not, as in a value.
    """

    name: str
    num_heads: int
    head_dim: int
    dtype: str
    rope: RopeSpec | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise IncompatibleMemoryError(f"KV dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        counts = (self.num_heads, self.head_dim)
        if min(counts) < 1 or max(counts) >= 2**31 or (self.rope is not None and self.rope.rotary_dim > self.head_dim):
            raise IncompatibleMemoryError(f"impossible KV shape: {self}")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def bytes_per_token(self) -> int:
        return self.num_heads * self.head_dim * self.torch_dtype.itemsize

    def __str__(self) -> str:
        rope = "" if self.rope is None else f" with RoPE {self.rope.kind}"
        return f"{self.name} {self.num_heads}×{self.head_dim} {self.dtype}{rope}"


@dataclass(frozen=True)
class LayerSpec:
    """The tensors that one layer caches: usually a key and a value, one of latent attention, none in a layer that reads
    another's."""

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        names = [tensor.name for tensor in self.tensors]
        if len(set(names)) < len(names):
            raise IncompatibleMemoryError(f"a layer caches two tensors of one name: {', '.join(names)}")

    @classmethod
    def attention(cls, num_kv_heads: int, head_dim: int, dtype: str, rope: RopeSpec) -> "LayerSpec":
        """A key that is rotated for its position, and a value of the same shape."""
        key = TensorSpec("key", num_kv_heads, head_dim, dtype, rope)
        return cls((key, replace(key, name="value", rope=None)))

    @cached_property
    def is_attention(self) -> bool:
        """Whether it is what `attention` makes."""
        if len(self.tensors) != 2 or self.tensors[0].rope is None:
            return False
        key = self.tensors[0]
        return self == LayerSpec.attention(key.num_heads, key.head_dim, key.dtype, self.tensors[0].rope)

    @cached_property
    def bytes_per_token(self) -> int:
        return sum(tensor.bytes_per_token for tensor in self.tensors)

    def __str__(self) -> str:
        return ", ".join(map(str, self.tensors)) or "nothing"

    def to_header(self) -> list[dict[str, Any]]:
        """Plain dicts for the wire, one for each tensor."""
        return [
            {
                "name": tensor.name,
                "num_heads": tensor.num_heads,
                "head_dim": tensor.head_dim,
                "dtype": tensor.dtype,
                "rope": tensor.rope and {"kind": tensor.rope.kind, "inv_freq": list(tensor.rope.inv_freq)},
            }
            for tensor in self.tensors
        ]

    @classmethod
    def from_header(cls, header: list[Mapping[str, Any]]) -> "LayerSpec":
        """The inverse of `to_header`. Raises what Python raises for anything else, and IncompatibleMemoryError."""
        tensors = [
            TensorSpec(
                str(tensor["name"]),
                int(tensor["num_heads"]),
                int(tensor["head_dim"]),
                str(tensor["dtype"]),
                None if tensor["rope"] is None else read_rope(tensor["rope"]),
            )
            for tensor in header
        ]
        return cls(tuple(tensors))


def read_rope(header: Mapping[str, Any]) -> RopeSpec:
    """A RoPE from a header. Raises what Python raises for anything else, and IncompatibleMemoryError."""
    return RopeSpec(str(header["kind"]), tuple(float(frequency) for frequency in header["inv_freq"]))


@lru_cache(maxsize=1024)
def shared(layer: LayerSpec) -> LayerSpec:
    """The same object for equal layers, so that specs are compared in no time."""
    return layer
