"""Sizes of a model's weights and KV, computed from its architecture without loading it."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from latentmas_ray.errors import ModelError
from latentmas_ray.paths import expand_home

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class AttentionDims:
    """The sizes of a decoder that determine its KV cache."""

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    latent_dim: int = 0  # of a latent attention's compressed key and value, which it caches instead of both; 0: none
    rotary_key_dim: int = 0  # of the rotary part of a latent attention's key, which it caches too
    num_other_layers: int = 0  # that cache no keys: they keep a state, have no attention, or read another layer's keys


@dataclass(frozen=True, kw_only=True)
class CacheSizes:
    """What the layers of a model cache, where they do not all cache a key and a value of one shape
    (`models.abilities.cache_dims`)."""

    token_numbers: int  # of one token in all layers, in the model's dtype
    state_numbers: int  # of one question's states in all layers, in the model's dtype
    fixed_state_bytes: int  # of one question's states in a dtype of their own
    kinds: str  # what each layer caches, for a table


@dataclass(frozen=True, kw_only=True)
class ModelDims:
    """The dimensions of a decoder. `stored_parameters`: the parameters in its files, if they are present. `cache`: what
    its layers cache; None for keys and values, or latents, that are alike in all layers."""

    num_layers: int
    hidden_size: int
    mlp_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    is_tied: bool
    dtype: str = "bfloat16"  # of the weights
    stored_parameters: int | None = None
    latent_dim: int = 0
    rotary_key_dim: int = 0
    num_other_layers: int = 0
    cache: CacheSizes | None = None
    caches_alike: bool = True  # False: `cache` is needed, and a configuration's sizes do not say it

    @property
    def shared_out_parameters(self) -> int:
        """Parameters that tensor-parallel ranks divide: attention 2·E·D·(heads + KV heads) and MLP 3·E·I per layer; all
        but the embeddings of a model with a `cache` of its own kind, whose layers are other ones."""
        if self.cache is not None and self.stored_parameters is not None:
            embeddings = self.vocab_size * self.hidden_size * (1 if self.is_tied else 2)
            return max(0, self.stored_parameters - embeddings)
        attention = 2 * self.hidden_size * self.head_dim * (self.num_heads + self.num_kv_heads)
        return self.num_layers * (attention + 3 * self.hidden_size * self.mlp_size)

    @property
    def whole_parameters(self) -> int:
        """Parameters that every rank holds: embeddings (two matrices if they are not tied) and norms."""
        if self.stored_parameters is not None:
            return max(0, self.stored_parameters - self.shared_out_parameters)
        norms = self.num_layers * (2 * self.hidden_size + 2 * self.head_dim) + self.hidden_size
        return self.vocab_size * self.hidden_size * (1 if self.is_tied else 2) + norms

    @property
    def num_parameters(self) -> int:
        return self.shared_out_parameters + self.whole_parameters

    @property
    def bytes_per_token(self) -> int:
        """Bytes of KV per token, all L layers that cache keys together: 2·L·H·D·itemsize; with latent attention
        L·(R + r)·itemsize, R numbers of the latent and r of the key's rotary part; what its `cache` says."""
        if self.cache is not None:
            return self.cache.token_numbers * self.itemsize
        if self.latent_dim:
            return self.num_kv_layers * (self.latent_dim + self.rotary_key_dim) * self.itemsize
        return 2 * self.num_kv_layers * self.num_kv_heads * self.head_dim * self.itemsize

    @property
    def state_bytes(self) -> int:
        """Bytes of one question's states in all layers, which each of its segments carries, however long it is."""
        return 0 if self.cache is None else self.cache.state_numbers * self.itemsize + self.cache.fixed_state_bytes

    def memory_bytes(self, tokens: int) -> int:
        """Return the bytes of a segment of one question with so many tokens."""
        return tokens * self.bytes_per_token + self.state_bytes

    @property
    def num_kv_layers(self) -> int:
        """The layers that cache keys and values, or a latent of both."""
        return self.num_layers - self.num_other_layers

    @property
    def itemsize(self) -> int:
        return DTYPE_BYTES[self.dtype]

    def weights_bytes(self, tp: int = 1) -> int:
        """Return the bytes of weights on each of `tp` ranks."""
        return (self.shared_out_parameters // tp + self.whole_parameters) * self.itemsize

    def in_dtype(self, dtype: str) -> "ModelDims":
        """Return a copy with another dtype; `auto` keeps the model's."""
        return self if dtype == "auto" else replace(self, dtype=dtype)


def _preset(
    hidden: int, mlp: int, layers: int, heads: int, *, kv_heads: int = 8, vocab: int, parameters: int | None = None
) -> ModelDims:
    """Return the dimensions of a published model whose heads have 128 dimensions and whose embeddings are not tied."""
    return ModelDims(
        num_layers=layers,
        hidden_size=hidden,
        mlp_size=mlp,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=128,
        vocab_size=vocab,
        is_tied=False,
        stored_parameters=parameters,
    )


def _qwen3(hidden: int, mlp: int, layers: int, heads: int, *, is_tied: bool = False) -> ModelDims:
    return replace(_preset(hidden, mlp, layers, heads, vocab=151_936), is_tied=is_tied)


_LLAMA_8B = _preset(4096, 14336, 32, 32, vocab=128_256, parameters=8_030_261_248)
_LLAMA_70B = _preset(8192, 28672, 80, 64, vocab=128_256, parameters=70_553_706_496)


# From the models' published configurations. Those of other families than Qwen3 have other norms and biases, so their
# published numbers of parameters stand here.
PRESETS: Mapping[str, ModelDims] = {
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, is_tied=True),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, is_tied=True),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, is_tied=True),
    "qwen3-8b": _qwen3(4096, 12288, 36, 32),
    "qwen3-14b": _qwen3(5120, 17408, 40, 40),
    "qwen3-32b": _qwen3(5120, 25600, 64, 64),
    "qwen2.5-7b": _preset(3584, 18944, 28, 28, kv_heads=4, vocab=152_064, parameters=7_615_616_512),
    "qwen2.5-14b": _preset(5120, 13824, 48, 40, vocab=152_064, parameters=14_770_033_664),
    "qwen2.5-32b": _preset(5120, 27648, 64, 40, vocab=152_064, parameters=32_763_876_352),
    "qwen2.5-72b": _preset(8192, 29568, 80, 64, vocab=152_064, parameters=72_706_203_648),
    "llama-3.1-8b": _LLAMA_8B,
    "llama-3.1-70b": _LLAMA_70B,
    "llama-3.3-70b": _LLAMA_70B,
}
# Fields of configurations whose layers do not all cache a key and a value alike.
_OWN_CACHE = re.compile(
    r"mamba|ssm|state_size|conv_(l_cache|kernel)|linear_(num|key|value|conv|attn)|lora_rank|hybrid|attn_layer_|kv_shared"
    r"|layers?_block_type|per_layer_config|global_head_dim|global_key_value|^v_head_dim|cross_attention_layers|per_stack|recurrent",
    re.IGNORECASE,
)
_VARIANT = re.compile(r"-(instruct|base|thinking)(-\d{4})?$")  # of the same dimensions


def _embedded(num_layers: int, hidden_size: int, vocab_size: int) -> ModelDims:
    return ModelDims(
        num_layers=num_layers,
        hidden_size=hidden_size,
        mlp_size=512,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        vocab_size=vocab_size,
        is_tied=False,
    )


EMBEDDED: Mapping[str, ModelDims] = {
    "tiny": _embedded(4, 256, 805),
    "small": _embedded(3, 224, 867),
    "tiny-latent": _embedded(4, 256, 805),
}


def known_dims(name: str) -> ModelDims | None:
    """Return the dimensions of an embedded model, a preset, a hub id that ends in a preset's name, or a model folder;
    None for any other name. Raises ModelError for a folder without a usable config.json."""
    if (embedded := EMBEDDED.get(name)) is not None:
        return embedded
    if (preset := _preset_of(name)) is not None and not Path(name).is_dir():
        return preset
    folder = Path(expand_home("model", name, ModelError))
    return dims_of_folder(folder) if folder.is_dir() else None


def is_published(name: str) -> bool:
    """Return whether this is an embedded model, a preset, or a hub id that ends in a preset's name."""
    return name in EMBEDDED or (_preset_of(name) is not None and not Path(name).is_dir())


def _preset_of(name: str) -> ModelDims | None:
    """Return the preset of a hub id such as `Qwen/Qwen3-8B` or `meta-llama/Llama-3.3-70B-Instruct`."""
    model = name.rpartition("/")[2].lower().removeprefix("meta-")
    return PRESETS.get(_VARIANT.sub("", model))


def dims_of_folder(folder: Path) -> ModelDims:
    """Read the dimensions from config.json and the headers of the safetensors files. Raises ModelError."""
    path = folder / "config.json"
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for its writer
            raise ValueError("config.json is no regular file")
        config = json.loads(path.read_text(encoding="utf-8"))
        stored = sum(map(_parameters_in, sorted(folder.glob("*.safetensors"))))
    except (OSError, ValueError, RecursionError) as error:
        expected = f"it must be a folder with a config.json and whole safetensors files: {error}"
        raise ModelError("model", str(folder), expected) from None
    dims = dims_of_config(config, str(folder))
    return replace(dims, stored_parameters=stored) if stored else dims


def dims_of_config(config: Mapping[str, Any], name: str) -> ModelDims:
    """Read the dimensions from the content of a transformers config.json; of a vision-language model those of its text
    decoder. Raises ModelError if one is missing."""
    if isinstance(config, Mapping) and isinstance(text := config.get("text_config"), Mapping):
        whole = {key: value for key, value in config.items() if key in ("dtype", "torch_dtype", "tie_word_embeddings")}
        config = {**text, **whole}
    try:
        attention = attention_dims(config)
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16").removeprefix("torch.")
        dims = ModelDims(
            **asdict(attention),
            mlp_size=int(config["intermediate_size"] if "intermediate_size" in config else config["ffn_hidden_size"]),
            vocab_size=int(config["vocab_size"]),
            is_tied=bool(config.get("tie_word_embeddings", False)),
            dtype=dtype if dtype in DTYPE_BYTES else "bfloat16",
            caches_alike=caches_alike(config),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise ModelError(
            "model", name, f"its configuration must have the sizes of a dense decoder: {error!r}"
        ) from None
    counts = [getattr(dims, field.name) for field in fields(dims) if field.type is int and field.default != 0]
    if min(counts) < 1:
        raise ModelError("model", name, "the sizes in its configuration must be at least 1")
    return dims


def caches_alike(config: Mapping[str, Any]) -> bool:
    """Return whether all layers of a text decoder cache a key and a value of one shape: its configuration has no fields
    of states, of latents, of layers with sizes of their own, or of layers that read what others cache."""
    if any(value and _OWN_CACHE.search(str(name)) for name, value in config.items()):
        return False
    return set(config.get("layer_types") or ()) <= {"full_attention", "sliding_attention", "chunked_attention"}


def attention_dims(config: Mapping[str, Any]) -> AttentionDims:
    """Read the attention sizes from a transformers configuration, as its config.json has it. Raises KeyError for a
    missing size, and TypeError or ValueError for one that is not a number."""
    heads, latent = int(config["num_attention_heads"]), int(config.get("kv_lora_rank") or 0)
    num_layers = _num_layers(config)
    return AttentionDims(
        num_layers=num_layers,
        hidden_size=int(config["hidden_size"]),
        num_heads=heads,
        num_kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        latent_dim=latent,
        rotary_key_dim=int(config["qk_rope_head_dim"]) if latent else 0,
        num_other_layers=_num_other_layers(config, num_layers),
    )


def _num_layers(config: Mapping[str, Any]) -> int:
    """The number of layers. A list of their kinds stands for it in some configurations; LongCat counts pairs."""
    if "num_hidden_layers" not in config and "num_layers" in config:
        return 2 * int(config["num_layers"])
    return int(config.get("num_hidden_layers") or len(config["layers_block_type"]))


def _num_other_layers(config: Mapping[str, Any], num_layers: int) -> int:
    """How many layers cache no keys, as far as a configuration says."""
    if (kinds := config.get("layer_types") or config.get("layers_block_type")) is not None:
        others = sum(("attention" not in kind and "hybrid" not in kind) or "linear" in kind for kind in kinds)
    elif (pattern := config.get("hybrid_override_pattern")) is not None:  # Nemotron-H: * is attention
        others = num_layers - pattern.count("*")
    elif (indices := config.get("attn_layer_indices")) is not None:
        others = num_layers - len(indices)
    elif period := int(config.get("attn_layer_period") or 0):
        others = num_layers - len(range(int(config.get("attn_layer_offset") or 0), num_layers, period))
    else:
        others = 0
    return others + int(config.get("num_kv_shared_layers") or 0)


def _parameters_in(path: Path) -> int:
    """Return the number of parameters in a safetensors file, read from its header. Raises OSError, ValueError."""
    try:
        with safe_open(path, framework="np") as file:  # no tensor is loaded, and torch takes seconds to import
            return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {error}") from error
