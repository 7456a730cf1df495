"""What must agree before one engine may read another's KV cache: which tensors each layer caches, and whose they are.

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
from latentmas_ray.memory.layer_spec import DTYPES, LayerSpec, RopeSpec, TensorSpec, read_rope, shared

_MAX_LAYERS = 2**14


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

    `layers` are those of the shard that is here: of a shard its own heads, of a whole model all. `dtype` is that of the
    model and of its latent thoughts.
    """

    architecture: str
    layers: tuple[LayerSpec, ...]
    hidden_size: int
    dtype: str
    weights_revision: str  # names the weights: two models of one shape do not understand each other's memory
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
        rope: RopeSpec,
        weights_revision: str,
        shard: TPRank = WHOLE,
    ) -> "KVCacheSpec":
        """Of a model whose layers all cache a key and a value of one shape. Raises IncompatibleMemoryError."""
        if not 0 < num_layers <= _MAX_LAYERS:
            raise IncompatibleMemoryError(f"impossible KV shape: {num_layers} layers")
        layer = shared(LayerSpec.attention(num_kv_heads, head_dim, dtype, rope))
        return cls(architecture, (layer,) * num_layers, hidden_size, dtype, weights_revision, shard)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def _odd_layer(self) -> int | None:
        """The first layer that is not like the others of a uniform model."""
        first = self.layers[0]
        if not first.is_attention or first.tensors[0].dtype != self.dtype:
            return 0
        return next((index for index, layer in enumerate(self.layers) if layer != first), None)

    @property
    def is_uniform(self) -> bool:
        """Whether all layers cache a key and a value of one shape, so that KV is one tensor [L, 2, H, T, D]."""
        return self._odd_layer is None

    def require_uniform(self) -> None:
        """Raises IncompatibleMemoryError that names the first layer in the way unless the layers are all alike."""
        if (index := self._odd_layer) is not None:
            raise IncompatibleMemoryError(
                f"layer {index} caches {self.layers[index]}: memory can be packed and moved like that, but is computed "
                f"with only where all layers cache a key and a value of one shape in {self.dtype}"
            )

    @property
    def _key(self) -> TensorSpec:
        self.require_uniform()
        return self.layers[0].tensors[0]

    @property
    def num_kv_heads(self) -> int:
        """KV heads that are here, of every layer. Raises IncompatibleMemoryError unless `is_uniform`."""
        return self._key.num_heads

    @property
    def head_dim(self) -> int:
        """Raises IncompatibleMemoryError unless `is_uniform`."""
        return self._key.head_dim

    @property
    def rope(self) -> RopeSpec:
        """Of every key. Raises IncompatibleMemoryError unless `is_uniform`."""
        rope = self._key.rope
        assert rope is not None, "keys of a uniform model are rotated"
        return rope

    @property
    def num_model_kv_heads(self) -> int:
        """KV heads of the whole model. Raises IncompatibleMemoryError unless `is_uniform`."""
        return self.num_kv_heads * self.shard.of

    def of_shard(self, shard: TPRank) -> "KVCacheSpec":
        """The same model's memory as another shard of it holds it.

        Raises IncompatibleMemoryError if the model's KV heads cannot be divided like that.
        """
        if shard == self.shard:
            return self
        divided = {layer: shared(self._divide(layer, shard)) for layer in dict.fromkeys(self.layers)}
        return replace(self, layers=tuple(divided[layer] for layer in self.layers), shard=shard)

    def _divide(self, layer: LayerSpec, shard: TPRank) -> LayerSpec:
        tensors = []
        for tensor in layer.tensors:
            num_heads = tensor.num_heads * self.shard.of
            if num_heads % shard.of:
                raise IncompatibleMemoryError(f"{num_heads} KV heads cannot be divided by {shard.of} ranks")
            tensors.append(replace(tensor, num_heads=num_heads // shard.of))
        return LayerSpec(tuple(tensors))

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of all cached tensors that one token takes in all layers: 2·L·H·D·itemsize of a uniform model."""
        return sum(layer.bytes_per_token for layer in self.layers)

    def check_same(self, other: "KVCacheSpec") -> None:
        """Raises IncompatibleMemoryError that names the first field in which `other`'s memory differs."""
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
        """The first field in which `other` differs, as in `head_dim is 64, not 128`; None if there is none."""
        mine, theirs = self._facts(), other._facts()
        for name, value in mine.items():
            if theirs.get(name, value) != value:
                return f"{name} is {reprlib.repr(theirs[name])}, not {reprlib.repr(value)}"
        for index, (layer, another) in enumerate(zip(self.layers, other.layers, strict=True)):
            if layer != another:
                more = ", with other frequencies" if str(layer) == str(another) else ""
                return f"layer {index} caches {another}, not {layer}{more}"
        return None

    def _facts(self) -> dict[str, Any]:
        """What says most first."""
        facts: dict[str, Any] = {"architecture": self.architecture, "num_layers": self.num_layers}
        if self.is_uniform:
            facts |= {"num_kv_heads": self.num_kv_heads, "head_dim": self.head_dim}
        facts |= {"hidden_size": self.hidden_size, "dtype": self.dtype}
        if self.is_uniform:
            facts["rope"] = asdict(self.rope)
        return {**facts, "weights_revision": self.weights_revision, "shard": asdict(self.shard)}

    def to_header(self) -> dict[str, Any]:
        """A plain dict for the wire. Each kind of layer is there once, and `layers` says [kind, how many], in order.
        What says nothing of a shard is of a whole model."""
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
        return header if self.shard == WHOLE else {**header, "shard": asdict(self.shard)}

    @classmethod
    def from_header(cls, header: Mapping[str, Any]) -> "KVCacheSpec":
        """The inverse of `to_header`; reads also the headers of uniform models that memory files of version 1 have.
        Raises WireError for anything else."""
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
            kinds = [shared(LayerSpec.from_header(kind)) for kind in header["layer_kinds"]]
            runs = [(int(kind), int(count)) for kind, count in header["layers"]]
            if any(not 0 <= kind < len(kinds) or count < 1 for kind, count in runs):
                raise IncompatibleMemoryError(f"{len(kinds)} kinds of layers, in runs of {runs}")
            if sum(count for _, count in runs) > _MAX_LAYERS:
                raise IncompatibleMemoryError(f"more than {_MAX_LAYERS} layers")
            return cls(**common, layers=tuple(kinds[kind] for kind, count in runs for _ in range(count)))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise WireError(f"the segment's spec cannot be read: {error}") from error
