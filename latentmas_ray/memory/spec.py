"""The specification that must agree before one engine reads another's KV cache: each layer's tensors, the weights.

Dimensions: L layers, H KV heads, T tokens, D head dim.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

import torch

from latentmas_ray.errors import IncompatibleMemoryError, WireError
from latentmas_ray.memory.layer_spec import DTYPES, LayerSpec, RopeSpec, TensorSpec, interned, read_rope

_MAX_LAYERS = 2**14


@dataclass(frozen=True)
class TPRank:
    """Tensor-parallel rank `rank` of `of`: of a model's KV heads, divided into `of` equal parts, it holds that one."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size < 2**31:
            raise IncompatibleMemoryError(f"there is no tensor-parallel rank {self.rank} of {self.world_size}")

    def __str__(self) -> str:
        return f"rank {self.rank} of {self.world_size}"


WHOLE = TPRank()


@dataclass(frozen=True)
class KVCacheSpec:
    """The shape and meaning of KV bytes. Two segments are compatible if their specs are equal.

    `layers` count the heads of `shard` only. `dtype` is that of the model and of its latent thoughts.
    """

    architecture: str
    layers: tuple[LayerSpec, ...]
    hidden_size: int
    dtype: str
    weights_revision: str  # identifies the weights: models of the same shape with other weights are incompatible
    shard: TPRank = WHOLE

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise IncompatibleMemoryError(f"KV dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        counts = (len(self.layers), self.hidden_size)
        if min(counts) < 1 or self.hidden_size >= 2**31 or len(self.layers) > _MAX_LAYERS:
            raise IncompatibleMemoryError(
                f"impossible KV shape: {len(self.layers)} layers of a model of hidden size {self.hidden_size}"
            )

    @classmethod
    def uniform(
        cls,
        *,
        architecture: str,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        hidden_size: int,
        dtype: str,
        rope: RopeSpec | None,
        weights_revision: str,
        shard: TPRank = WHOLE,
    ) -> "KVCacheSpec":
        """The spec of a model whose layers all cache a key and a value of one shape."""
        if not 0 < num_layers <= _MAX_LAYERS:
            raise IncompatibleMemoryError(f"impossible KV shape: {num_layers} layers")
        layer = interned(LayerSpec.attention(num_kv_heads, head_dim, dtype, rope))
        return cls(architecture, (layer,) * num_layers, hidden_size, dtype, weights_revision, shard)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def _first_irregular_layer(self) -> int | None:
        """The first layer that is stored otherwise than those of a uniform model; None for a uniform model."""
        first = self.layers[0]
        if not first.is_attention or first.tensors[0].dtype != self.dtype:
            return 0
        irregular = (
            index for index, layer in enumerate(self.layers) if layer.shape != first.shape or not layer.is_attention
        )
        return next(irregular, None)

    @property
    def is_uniform(self) -> bool:
        """Whether all layers cache a key and a value of one shape: then KV is one tensor [L, 2, H, T, D]. Their windows
        and their RoPE may differ."""
        return self._first_irregular_layer is None

    def require_uniform(self) -> None:
        """Raises IncompatibleMemoryError, which names the first layer that differs, unless `is_uniform`."""
        if (index := self._first_irregular_layer) is not None:
            raise IncompatibleMemoryError(
                f"layer {index} caches {self.layers[index]}, not a key and a value of one shape in {self.dtype} as in "
                "memory that is one tensor"
            )

    @property
    def _key(self) -> TensorSpec:
        self.require_uniform()
        return self.layers[0].tensors[0]

    @property
    def num_kv_heads(self) -> int:
        """KV heads of this shard in every layer. Raises IncompatibleMemoryError unless `is_uniform`."""
        return self._key.num_heads

    @property
    def head_dim(self) -> int:
        """Raises IncompatibleMemoryError unless `is_uniform`."""
        return self._key.head_dim

    @cached_property
    def ropes(self) -> tuple[RopeSpec | None, ...]:
        """The RoPE of each layer's keys; None for a layer without positions. Raises IncompatibleMemoryError unless
        `is_uniform`."""
        self.require_uniform()
        return tuple(layer.tensors[0].rope for layer in self.layers)

    @property
    def rope(self) -> RopeSpec:
        """The RoPE of every key. Raises IncompatibleMemoryError unless `is_uniform` and all layers have the same."""
        rope = self.ropes[0]
        if rope is None or any(other != rope for other in self.ropes):
            raise IncompatibleMemoryError("the keys of these layers are not all rotated alike")
        return rope

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """Each layer's sliding window, in positions; None for one that sees everything before a token."""
        return tuple(layer.window for layer in self.layers)

    @cached_property
    def has_windows(self) -> bool:
        """Whether any layer has a sliding window: then a reader must know where each token is."""
        return any(window is not None for window in self.windows)

    @property
    def num_model_kv_heads(self) -> int:
        """KV heads of the whole model. Raises IncompatibleMemoryError unless `is_uniform`."""
        return self.num_kv_heads * self.shard.world_size

    def of_shard(self, shard: TPRank) -> "KVCacheSpec":
        """The spec of another shard of the same model. Raises IncompatibleMemoryError if its ranks cannot divide the KV
        heads."""
        if shard == self.shard:
            return self
        divided = {layer: interned(self._divide(layer, shard)) for layer in dict.fromkeys(self.layers)}
        return replace(self, layers=tuple(divided[layer] for layer in self.layers), shard=shard)

    def _divide(self, layer: LayerSpec, shard: TPRank) -> LayerSpec:
        tensors = []
        for tensor in layer.tensors:
            num_heads = tensor.num_heads * self.shard.world_size
            if num_heads % shard.world_size:
                raise IncompatibleMemoryError(f"{num_heads} KV heads cannot be divided by {shard.world_size} ranks")
            tensors.append(replace(tensor, num_heads=num_heads // shard.world_size))
        return replace(layer, tensors=tuple(tensors))

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of one token in all layers: 2·L·H·D·itemsize for a uniform model."""
        return sum(layer.bytes_per_token for layer in self.layers)

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of a question's states in all layers: a segment has them once, however many tokens it has. 0 for a
        model that has none."""
        return sum(layer.state_bytes for layer in self.layers)

    @property
    def has_states(self) -> bool:
        """Whether a layer keeps a state, which sums up all tokens before it: such memory can only be read as a
        chain."""
        return self.state_bytes > 0

    @property
    def why_no_merge(self) -> str:
        """Why parallel branches cannot be merged, for messages; empty if they can."""
        layer = next((index for index, layer in enumerate(self.layers) if layer.state_bytes), None)
        if layer is None:
            return ""
        return f"its layer {layer} keeps a state, which sums up all tokens before it and cannot be joined with another"

    def check_same(self, other: "KVCacheSpec") -> None:
        """Raises IncompatibleMemoryError, which names the first field that differs, unless `other` is equal."""
        if other == self:
            return
        if self.shard != other.shard and self._as_in(other):
            raise IncompatibleMemoryError(f"memory does not fit this shard: it is of {other.shard}, not {self.shard}")
        raise IncompatibleMemoryError(f"memory does not fit this model: {self.difference(other)}")

    def _as_in(self, other: "KVCacheSpec") -> bool:
        try:
            return self.of_shard(other.shard) == other
        except IncompatibleMemoryError:
            return False

    def difference(self, other: "KVCacheSpec") -> str | None:
        """The first field that differs, as in `head_dim is 64, not 128`; None if the specs are equal."""
        mine, theirs = self._fields_by_name(), other._fields_by_name()
        for name, value in mine.items():
            if theirs.get(name, value) != value:
                return f"{name} is {reprlib.repr(theirs[name])}, not {reprlib.repr(value)}"
        for index, (layer, another) in enumerate(zip(self.layers, other.layers, strict=True)):
            if layer != another:
                more = ", with other frequencies" if str(layer) == str(another) else ""
                return f"layer {index} caches {another}, not {layer}{more}"
        return None

    def _fields_by_name(self) -> dict[str, Any]:
        """The fields in the order in which differences are reported."""
        values: dict[str, Any] = {"architecture": self.architecture, "num_layers": self.num_layers}
        if self.is_uniform:
            values |= {"num_kv_heads": self.num_kv_heads, "head_dim": self.head_dim}
        values |= {"hidden_size": self.hidden_size, "dtype": self.dtype}
        if self.is_uniform and len(set(self.layers)) == 1:
            values |= {"rope": self.ropes[0] and asdict(self.ropes[0]), "window": self.windows[0]}
        return {**values, "weights_revision": self.weights_revision, "shard": asdict(self.shard)}

    def to_header(self) -> dict[str, Any]:
        """A plain dict for the wire. `layer_kinds` holds each kind of layer once; `layers` holds [kind, count] runs in
        order. A header without `shard` describes a whole model."""
        runs = [(layer, len(list(same))) for layer, same in groupby(self.layers)]
        kinds = list(dict.fromkeys(layer for layer, _ in runs))
        number = {layer: index for index, layer in enumerate(kinds)}
        header = {
            "architecture": self.architecture,
            "hidden_size": self.hidden_size,
            "dtype": self.dtype,
            "weights_revision": self.weights_revision,
            "layer_kinds": [layer.to_header() for layer in kinds],
            "layers": [[number[layer], count] for layer, count in runs],
        }
        shard = {"rank": self.shard.rank, "of": self.shard.world_size}
        return header if self.shard == WHOLE else {**header, "shard": shard}

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> "KVCacheSpec":
        """The inverse of `to_header`; also reads the headers of memory files of version 1. Raises WireError for
        malformed headers."""
        try:
            shard = header.get("shard", {"rank": 0, "of": 1})
            common: dict[str, Any] = {
                "architecture": str(header["architecture"]),
                "hidden_size": int(header["hidden_size"]),
                "dtype": str(header["dtype"]),
                "weights_revision": str(header["weights_revision"]),
                "shard": TPRank(int(shard["rank"]), int(shard["of"])),
            }
            if "layers" not in header:
                shape: dict[str, Any] = {name: int(header[name]) for name in ("num_layers", "num_kv_heads", "head_dim")}
                return cls.uniform(**common, **shape, rope=read_rope(header["rope"]))
            kinds = [interned(LayerSpec.from_header(kind)) for kind in header["layer_kinds"]]
            runs = [(int(kind), int(count)) for kind, count in header["layers"]]
            if any(not 0 <= kind < len(kinds) or count < 1 for kind, count in runs):
                raise IncompatibleMemoryError(f"{len(kinds)} kinds of layers, in runs of {runs}")
            if sum(count for _, count in runs) > _MAX_LAYERS:
                raise IncompatibleMemoryError(f"more than {_MAX_LAYERS} layers")
            return cls(**common, layers=tuple(kinds[kind] for kind, count in runs for _ in range(count)))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise WireError(f"the segment's spec cannot be read: {error}") from error
