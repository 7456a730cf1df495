"""What a model can do here, found before a run: from its configuration, its tokenizer, and a random small model of the
same kind. No weights are read, so it takes seconds for a model of any size."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PretrainedConfig

from latentmas_ray.errors import ModelError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.memory.layer_spec import DTYPES
from latentmas_ray.models.abilities.shrink import shrink
from latentmas_ray.models.abilities.sizes import full_layers
from latentmas_ray.models.abilities.weights import check_weights
from latentmas_ray.models.compat import check_config, check_fits, wrap
from latentmas_ray.models.devices import check_divisible
from latentmas_ray.models.kv_spec import config_dims, position_limit, text_config
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.load import auto_class, load_tokenizer, read_config, translated
from latentmas_ray.models.presets import tiny_tokenizer

_SEED = 1
_STD = 0.06  # of random weights: rounding does not grow over the layers, and a wrong position shows


@dataclass(frozen=True, kw_only=True)
class Abilities:
    """What one model can do. With a `refusal` it cannot collaborate at all, and the other fields are empty."""

    model: str
    architecture: str
    refusal: str = ""
    no_merge: str = ""  # why parallel branches cannot be merged; empty if they can
    spec: KVCacheSpec | None = None  # of the whole model
    max_positions: int | None = None
    positions_bound: str = ""  # why it has only so many, if it is made for more
    num_experts: int = 0
    sees_images: bool = False  # a vision-language model, of which the text decoder is used
    has_template: bool = False
    weights: str = ""  # what the headers of its files show
    ranks: tuple[int, ...] = (1,)  # numbers of tensor-parallel ranks that can divide it
    no_ranks: str = ""  # why it cannot be divided


def find_abilities(name: str, *, dtype: str = "auto", revision: str | None = None) -> Abilities:
    """Find what a model can do; `name` is an embedded model, a folder or a hub id, `dtype` auto keeps the model's own.

    A model that cannot collaborate has a `refusal`. Raises ModelError where there is no model: for a wrong name or
    folder, a configuration or a tokenizer that does not load, and weights that are not those of the configuration.
    """
    config = read_config(name, revision)
    tokenizer = load_tokenizer(name, revision)
    architecture = next(iter(getattr(config, "architectures", None) or ()), type(config).__name__)
    known: dict[str, Any] = {"model": name, "architecture": architecture}
    try:
        check_config(config, name)
        spec = full_spec(config, name, _dtype_of(config, dtype))
    except ModelError as error:
        return Abilities(**known, refusal=error.expected)
    ranks, no_ranks = _ranks(config, spec, name)
    check_fits(tokenizer, text_config(config).vocab_size, name)
    weights = check_weights(name)
    limit = position_limit(config)
    return Abilities(
        **known,
        spec=spec,
        max_positions=None if limit is None else limit.num_positions,
        positions_bound="" if limit is None else limit.reason,
        num_experts=_num_experts(config),
        sees_images=text_config(config) is not config,
        has_template=bool(tokenizer.chat_template),
        weights=weights,
        ranks=ranks,
        no_ranks=no_ranks,
        no_merge=spec.why_no_merge,
    )


def _random_small_model(config: PretrainedConfig, name: str) -> LanguageModel:
    """A checked model of the same kind. Raises ModelError for one that cannot collaborate."""
    with translated(name, "a small model of its kind must work"):
        small = shrink(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            for part in (small, text_config(small)):
                if hasattr(part, "initializer_range"):
                    part.initializer_range = _STD
            model = auto_class(small).from_config(small, trust_remote_code=False, dtype=torch.float32)
    return wrap(model, tiny_tokenizer(), name)


def full_spec(config: PretrainedConfig, name: str, dtype: str) -> KVCacheSpec:
    """The spec of the whole model in `dtype`, whose layers are those of a small model of its kind at full size. Raises
    ModelError for one that cannot collaborate."""
    small = _random_small_model(config, name)
    with translated(name, "a model of its sizes must work"):
        layers = full_layers(config, small.spec.layers, dtype)
    if layers is None:
        raise ModelError("model", name, "it must be known what each of its layers caches, and the small model differs")
    sizes = {"hidden_size": config_dims(config).hidden_size, "dtype": dtype, "weights_revision": "shape alone"}
    return replace(small.spec, layers=layers, **sizes)  # type: ignore[arg-type]  # each of its own type


def _dtype_of(config: PretrainedConfig, dtype: str) -> str:
    if dtype != "auto":
        return dtype
    return next((text for text, kind in DTYPES.items() if kind == config.dtype), "bfloat16")


def _num_experts(config: PretrainedConfig) -> int:
    text = text_config(config)
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return next((count for name in names if type(count := getattr(text, name, None)) is int and count > 1), 0)


def _ranks(config: PretrainedConfig, spec: KVCacheSpec, name: str) -> tuple[tuple[int, ...], str]:
    """Numbers of ranks, and why there are no others than 1."""
    if not spec.is_uniform:
        return (1,), "its layers do not all cache the same"
    possible, why = [1], ""
    for count in range(2, config_dims(config).num_kv_heads + 1):
        try:
            check_divisible(config, name, count)
            possible.append(count)
        except ModelError as error:
            why = error.expected
    return tuple(possible), why if possible == [1] else ""
