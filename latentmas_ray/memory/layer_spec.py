"""What each layer of a model caches: its tensors, how keys depend on their positions, and which tokens it keeps.

A layer may keep fewer tokens than its segment has (eviction). One with a sliding window keeps all of them: a reader's
mask decides which it sees. RoPE is a rotation, so a key at position p becomes the key at p + Δ by one more rotation of
Δ (RoFormer, arXiv 2104.09864, eq. 15).

Dimensions: H KV heads, T tokens, D head dim, R rotary dim (R ≤ D).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor

from latentmas_ray.errors import IncompatibleMemoryError, SegmentError, WireError

# Kinds whose frequencies do not depend on the sequence length, so that rotations add up.
ROPE_KINDS = ("default", "linear", "llama3", "yarn")
_ROTATED_TOKENS = 128


@dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding: component pair i rotates by `inv_freq[i]` radians per position.

    The pairs are (i, i + R/2) of the first R dimensions of a head, or (2i, 2i + 1) if they are interleaved. `inv_freq`
    already contains the scaling of `kind`; a factor that yarn multiplies keys with is part of the cached keys and plays
    no role in a rotation.
    """

    kind: str
    inv_freq: tuple[float, ...]  # [R/2]
    is_interleaved: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise IncompatibleMemoryError(f"RoPE kind {self.kind!r} is not one of {', '.join(ROPE_KINDS)}")
        if not all(map(math.isfinite, self.inv_freq)):
            raise IncompatibleMemoryError(f"RoPE frequencies must be finite: {self.inv_freq}")

    @property
    def rotary_dim(self) -> int:
        return 2 * len(self.inv_freq)

    def __str__(self) -> str:
        return f"{self.kind}, interleaved" if self.is_interleaved else self.kind

    def to_header(self) -> dict[str, Any]:
        """A plain dict for the wire."""
        pairs = {"pairs": "interleaved"} if self.is_interleaved else {}
        return {"kind": self.kind, "inv_freq": list(self.inv_freq), **pairs}


def rotate_keys(keys_HTD: Tensor, shift: int, rope: RopeSpec | None) -> Tensor:
    """Return keys of positions p as keys of positions p + `shift`; leading dimensions are free, [..., T, D].

    Computed in fp32 for any dtype, with angles in fp64, so that a long shift costs no precision. Returns a new tensor
    (`keys_HTD` itself for shift 0, and without `rope`). Dimensions after the rotary ones, and the factor of a scaled
    kind, are unchanged.
    """
    if shift == 0 or rope is None:
        return keys_HTD
    angles = shift * torch.tensor(rope.inv_freq, dtype=torch.float64)
    cos = angles.cos().to(keys_HTD.device, torch.float32)
    sin = angles.sin().to(keys_HTD.device, torch.float32)
    stop = rope.rotary_dim
    evens, odds = slice(0, stop // 2), slice(stop // 2, stop)
    if rope.is_interleaved:
        evens, odds = slice(0, stop, 2), slice(1, stop, 2)
    out = torch.empty_like(keys_HTD, memory_format=torch.contiguous_format)
    # On a CPU in parts that its cache holds, with what is computed from them.
    step = _ROTATED_TOKENS if keys_HTD.device.type == "cpu" else max(1, keys_HTD.shape[-2])
    for part, out_part in zip(keys_HTD.split(step, dim=-2), out.split(step, dim=-2), strict=True):
        first, second = part[..., evens].float(), part[..., odds].float()
        out_part[..., evens] = (first * cos).sub_(second * sin)
        out_part[..., odds] = (second * cos).add_(first * sin)
        out_part[..., stop:] = part[..., stop:]
    return out


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that a layer caches, [H, T, D] per question; H counts this shard's heads.

    `rope` says how its numbers depend on the position; None if they do not, as in a value. With `state_dims` it is a
    state of that shape (linear attention, a state-space layer): one a question, which sums up all tokens before it, is
    kept as [1, 1, D], and cannot be moved.
    """

    name: str
    num_heads: int
    head_dim: int
    dtype: str
    rope: RopeSpec | None = None
    state_dims: tuple[int, ...] | None = None

    @classmethod
    def state(cls, name: str, dims: Sequence[int], dtype: str) -> "TensorSpec":
        """The spec of a state of this shape."""
        return cls(name, 1, math.prod(dims), dtype, state_dims=tuple(dims))

    def __post_init__(self) -> None:
        if self.state_dims is not None:
            is_whole = (self.num_heads, self.head_dim, self.rope) == (1, math.prod(self.state_dims), None)
            if not is_whole or min(self.state_dims, default=0) < 1:
                raise IncompatibleMemoryError(f"impossible state: {self}")
        if self.dtype not in DTYPES:
            raise IncompatibleMemoryError(f"KV dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        counts = (self.num_heads, self.head_dim)
        if min(counts) < 1 or max(counts) >= 2**31 or (self.rope is not None and self.rope.rotary_dim > self.head_dim):
            raise IncompatibleMemoryError(f"impossible KV shape: {self}")

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def is_key(self) -> bool:
        """Whether it is a key or a part of one: some channels of keys are large in every token, which codecs use."""
        return self.name in ("key", "rotary_key")

    @property
    def shape(self) -> tuple[str, int, int, str, tuple[int, ...] | None]:
        """All but the positions: tensors with equal shapes are stored alike."""
        return self.name, self.num_heads, self.head_dim, self.dtype, self.state_dims

    @property
    def row_bytes(self) -> int:
        """Bytes of one token, or of a state."""
        return self.num_heads * self.head_dim * self.torch_dtype.itemsize

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token; 0 for a state."""
        return 0 if self.state_dims is not None else self.row_bytes

    def __str__(self) -> str:
        if self.state_dims is not None:
            return f"{self.name} state {'×'.join(map(str, self.state_dims))} {self.dtype}"
        rope = "" if self.rope is None else f" with RoPE {self.rope}"
        return f"{self.name} {self.num_heads}×{self.head_dim} {self.dtype}{rope}"


@dataclass(frozen=True)
class LayerSpec:
    """The tensors that one layer caches: usually a key and a value; one with latent attention; none in a layer that
    shares another layer's. With a `window` a token at position p attends to positions above p − `window` only."""

    tensors: tuple[TensorSpec, ...]
    window: int | None = None

    def __post_init__(self) -> None:
        names = [tensor.name for tensor in self.tensors]
        if len(set(names)) < len(names):
            raise IncompatibleMemoryError(f"a layer caches two tensors with the same name: {', '.join(names)}")
        if any(tensor.state_dims is None for tensor in self.states):
            raise IncompatibleMemoryError(f"the states of a layer come last: {', '.join(names)}")
        if self.window is not None and not 0 < self.window < 2**31:
            raise IncompatibleMemoryError(f"a sliding window has at least 1 position, not {self.window}")

    @classmethod
    def attention(
        cls, num_kv_heads: int, head_dim: int, dtype: str, rope: RopeSpec | None, window: int | None = None
    ) -> "LayerSpec":
        """The spec of a key that is rotated for its position (not at all without `rope`) and a value of its shape."""
        key = TensorSpec("key", num_kv_heads, head_dim, dtype, rope)
        return cls((key, replace(key, name="value", rope=None)), window)

    @classmethod
    def latent(cls, latent_dim: int, rotary_dim: int, dtype: str, rope: RopeSpec | None) -> "LayerSpec":
        """The spec of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, eq. 9 to 12): one compressed latent
        for the keys and values of all heads, which does not depend on positions, and the key's rotary part, which all
        heads share."""
        return cls((TensorSpec("latent", 1, latent_dim, dtype), TensorSpec("rotary_key", 1, rotary_dim, dtype, rope)))

    @cached_property
    def is_attention(self) -> bool:
        """Whether it equals a spec made by `attention`."""
        if len(self.tensors) != 2:
            return False
        key = self.tensors[0]
        return self == LayerSpec.attention(key.num_heads, key.head_dim, key.dtype, key.rope, self.window)

    @cached_property
    def shape(self) -> tuple[tuple[str, int, int, str, tuple[int, ...] | None], ...]:
        """The shapes of its tensors: layers with equal shapes are stored alike."""
        return tuple(tensor.shape for tensor in self.tensors)

    @cached_property
    def slot_tensors(self) -> tuple[TensorSpec, ...]:
        """Those that have a row for each token; states come after them."""
        return tuple(tensor for tensor in self.tensors if tensor.state_dims is None)

    @cached_property
    def states(self) -> tuple[TensorSpec, ...]:
        """Its states."""
        return self.tensors[len(self.slot_tensors) :]

    @cached_property
    def blocks(self) -> tuple[tuple[TensorSpec, int], ...]:
        """Neighbouring tensors of one shape and dtype as one block [C, H, T, D]: the first of them, and C. A state is a
        block of its own."""
        shapes = groupby(
            self.tensors,
            key=lambda one: (one.num_heads, one.head_dim, one.dtype, "" if one.state_dims is None else one.name),
        )
        same = [list(tensors) for _, tensors in shapes]
        return tuple((tensors[0], len(tensors)) for tensors in same)

    @cached_property
    def bytes_per_token(self) -> int:
        return sum(tensor.bytes_per_token for tensor in self.tensors)

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of its states, which a question has once, however many tokens it has."""
        return sum(tensor.row_bytes for tensor in self.states)

    def __str__(self) -> str:
        window = "" if self.window is None else f", window {self.window}"
        return f"{', '.join(map(str, self.tensors)) or 'nothing'}{window}"

    def to_header(self) -> list[dict[str, Any]] | dict[str, Any]:
        """Plain dicts for the wire, one for each tensor; with a window in a dict with it."""
        tensors = [
            {
                "name": tensor.name,
                "num_heads": tensor.num_heads,
                "head_dim": tensor.head_dim,
                "dtype": tensor.dtype,
                "rope": tensor.rope and tensor.rope.to_header(),
                **({} if tensor.state_dims is None else {"state": list(tensor.state_dims)}),
            }
            for tensor in self.tensors
        ]
        return tensors if self.window is None else {"tensors": tensors, "window": self.window}

    @classmethod
    def from_header(cls, header: list[Mapping[str, Any]] | Mapping[str, Any]) -> "LayerSpec":
        """The inverse of `to_header`. Raises IncompatibleMemoryError, and Python's own errors for malformed headers."""
        window = int(header["window"]) if isinstance(header, Mapping) else None
        tensors = [
            TensorSpec(
                str(tensor["name"]),
                int(tensor["num_heads"]),
                int(tensor["head_dim"]),
                str(tensor["dtype"]),
                None if tensor["rope"] is None else read_rope(tensor["rope"]),
                tuple(map(int, tensor["state"])) if "state" in tensor else None,
            )
            for tensor in (header["tensors"] if isinstance(header, Mapping) else header)
        ]
        return cls(tuple(tensors), window)


def read_rope(header: Mapping[str, Any]) -> RopeSpec:
    """Read a RoPE from a header. Raises IncompatibleMemoryError, and Python's own errors for malformed headers."""
    pairs = header.get("pairs", "halves")
    if pairs not in ("halves", "interleaved"):
        raise IncompatibleMemoryError(f"the pairs of a RoPE are halves or interleaved, not {pairs!r}")
    inv_freq = tuple(float(frequency) for frequency in header["inv_freq"])
    return RopeSpec(str(header["kind"]), inv_freq, pairs == "interleaved")


@lru_cache(maxsize=1024)
def interned(layer: LayerSpec) -> LayerSpec:
    """Return the same object for equal layers, so that comparing specs is fast."""
    return layer


# `Ranges` belong to one question: ranges [first, stop) in order, with gaps. `LayerTokens`: one layer's, per question.
Ranges = tuple[tuple[int, int], ...]
LayerTokens = tuple[Ranges, ...]
KeptTokens = tuple[LayerTokens, ...]


def check_kept(kept: KeptTokens, num_layers: int, lengths: Sequence[int]) -> None:
    """Check that these are valid ranges within each question's `lengths[q]`. Raises SegmentError with the layer."""
    if len(kept) != num_layers:
        raise SegmentError(f"kept tokens of {len(kept)} layers, the model has {num_layers}")
    checked: set[int] = set()  # by identity: hashing all ranges takes longer
    for number, layer in enumerate(kept):
        if id(layer) in checked:
            continue
        checked.add(id(layer))
        if len(layer) != len(lengths):
            raise SegmentError(f"layer {number} keeps tokens of {len(layer)} questions, not of {len(lengths)}")
        for ranges, length in zip(layer, lengths, strict=True):
            edges = [edge for pair in ranges for edge in pair]
            is_ordered = all(first < second for first, second in pairwise(edges))
            if edges and not (is_ordered and edges[0] >= 0 and edges[-1] <= length):
                raise SegmentError(
                    f"layer {number} keeps {ranges} of {length} tokens: ranges must be in order, with gaps"
                )


def count_kept(layer: LayerTokens, windows: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The number of tokens within [begin, begin + length) that a layer keeps, per question."""
    return tuple(
        sum(max(0, min(stop, begin + length) - max(first, begin)) for first, stop in ranges)
        for ranges, (begin, length) in zip(layer, windows, strict=True)
    )


def list_kept(ranges: Ranges, begin: int, length: int) -> list[int]:
    """The tokens of [begin, begin + length) that are in the ranges, in order."""
    return [token for first, stop in ranges for token in range(max(first, begin), min(stop, begin + length))]


def kept_to_header(kept: KeptTokens | None) -> list[Any] | None:
    """The wire form: [tokens of a layer, number of consecutive layers that keep the same], in order."""
    if kept is None:
        return None
    return [[[[list(pair) for pair in own] for own in layer], len(list(same))] for layer, same in groupby(kept)]


def kept_from_header(header: Any, num_layers: int) -> KeptTokens | None:
    """The inverse of `kept_to_header` for a model of `num_layers` layers. Raises WireError for malformed headers."""
    if header is None:
        return None
    kept: list[LayerTokens] = []
    try:
        for layer, count in header:
            tokens = tuple(tuple((_count(first), _count(stop)) for first, stop in ranges) for ranges in layer)
            if not 0 < _count(count) <= num_layers - len(kept):
                raise ValueError(f"{count} layers where {num_layers - len(kept)} remain")
            kept += [tokens] * count
    except (TypeError, ValueError) as error:
        raise WireError(f"the segment's kept tokens cannot be read: {error}") from error
    return tuple(kept)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a number of tokens or layers")
    return value
