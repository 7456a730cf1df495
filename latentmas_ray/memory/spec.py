"""What must agree before one engine may read another's KV cache.

Dimensions: L layers, H KV heads, D head dim, E hidden size, R rotary dim (R ≤ D).
"""

import hashlib
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.errors import IncompatibleMemoryError, SegmentError, WireError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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


@dataclass(frozen=True)
class TPRank:
    """Tensor-parallel rank `rank` of `of`: of a model's KV heads, divided into `of` equal parts, it holds that one."""

    rank: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.of < 2**31:
            raise IncompatibleMemoryError(f"there is no shard {self.rank} of {self.of}")

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.of}"


WHOLE = TPRank()


@dataclass(frozen=True)
class KVCacheSpec:
    """The shape and the meaning of KV bytes. Two segments fit together if their specs are equal.

    `num_kv_heads` are those that are here: of a shard its own, of a whole model all.
    """

    architecture: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    dtype: str
    rope: RopeSpec
    weights_revision: str  # names the weights: two models of one shape do not understand each other's memory
    shard: TPRank = WHOLE

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise IncompatibleMemoryError(f"KV dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        counts = (self.num_layers, self.num_kv_heads, self.head_dim, self.hidden_size)
        if min(counts) < 1 or max(counts) >= 2**31 or self.rope.rotary_dim > self.head_dim:
            raise IncompatibleMemoryError(f"impossible KV shape: {self}")

    @property
    def num_model_kv_heads(self) -> int:
        """KV heads of the whole model."""
        return self.num_kv_heads * self.shard.of

    def of_shard(self, shard: TPRank) -> "KVCacheSpec":
        """The same model's memory as another shard of it holds it.

        Raises IncompatibleMemoryError if the model's KV heads cannot be divided like that.
        """
        num_heads = self.num_model_kv_heads
        if num_heads % shard.of:
            raise IncompatibleMemoryError(f"{num_heads} KV heads cannot be divided by {shard.of} ranks")
        return replace(self, num_kv_heads=num_heads // shard.of, shard=shard)

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def bytes_per_token(self) -> int:
        """Bytes of keys and values that one token takes in all layers: 2·L·H·D·itemsize."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.torch_dtype.itemsize

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that are equal exactly for equal specs."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def check_same(self, other: "KVCacheSpec") -> None:
        """Raises IncompatibleMemoryError that names the first field in which `other`'s memory differs."""
        if other == self:
            return
        if self.num_model_kv_heads == other.num_model_kv_heads and self.of_shard(other.shard) == other:
            raise IncompatibleMemoryError(f"memory does not fit this shard: it is of {other.shard}, not {self.shard}")
        raise IncompatibleMemoryError(f"memory does not fit this model: {self.difference(other)}")

    def difference(self, other: "KVCacheSpec") -> str | None:
        """The first field in which `other` differs, as in `head_dim is 64, not 128`; None if there is none."""
        mine, theirs = asdict(self), asdict(other)
        for name, value in mine.items():
            if theirs[name] != value:
                return f"{name} is {reprlib.repr(theirs[name])}, not {reprlib.repr(value)}"
        return None

    def check_tensors(self, kv_LCHTD: Tensor, num_tokens: int, latents_NE: Tensor) -> None:
        """Raises SegmentError unless these are KV [L, 2, H, num_tokens, D] in one buffer and latents [N, E] of such a
        model."""
        shape = (self.num_layers, 2, self.num_kv_heads, num_tokens, self.head_dim)
        if tuple(kv_LCHTD.shape) != shape or kv_LCHTD.dtype != self.torch_dtype:
            raise SegmentError(f"KV is {tuple(kv_LCHTD.shape)} {kv_LCHTD.dtype}, the spec wants {shape} {self.dtype}")
        if not kv_LCHTD.is_contiguous():
            raise SegmentError("KV must be one contiguous buffer")
        if latents_NE.shape[1] != self.hidden_size or latents_NE.dtype != self.torch_dtype:
            raise SegmentError(
                f"latents of size {latents_NE.shape[1]} {latents_NE.dtype}, "
                f"the spec wants {self.hidden_size} {self.dtype}"
            )

    def to_header(self) -> dict[str, Any]:
        """A plain dict for the wire. What says nothing of a shard is of a whole model."""
        header = {**asdict(self), "rope": {"kind": self.rope.kind, "inv_freq": list(self.rope.inv_freq)}}
        if self.shard == WHOLE:
            del header["shard"]
        return header

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> "KVCacheSpec":
        """The inverse of `to_header`. Raises WireError for anything else."""
        try:
            rope = RopeSpec(str(header["rope"]["kind"]), tuple(float(f) for f in header["rope"]["inv_freq"]))
            shard = header.get("shard", {"rank": 0, "of": 1})
            return cls(
                architecture=str(header["architecture"]),
                num_layers=int(header["num_layers"]),
                num_kv_heads=int(header["num_kv_heads"]),
                head_dim=int(header["head_dim"]),
                hidden_size=int(header["hidden_size"]),
                dtype=str(header["dtype"]),
                rope=rope,
                weights_revision=str(header["weights_revision"]),
                shard=TPRank(int(shard["rank"]), int(shard["of"])),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise WireError(f"the segment's spec cannot be read: {error}") from error
