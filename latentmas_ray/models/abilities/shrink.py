"""Small configurations of the same kind: as many kinds of layers, and few and narrow ones.

What a model can do depends on how its layers work, and not on their sizes. So it is tried with a random model of such
a configuration, for which no weights are read. Sizes are found by the names of their fields; `quirks` has what the
names of a family do not say.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from latentmas_ray.models.abilities.quirks import LAYER_RULES, QUIRKS, LayerRule

VOCABULARY = 320
WINDOW = 16  # shorter than the prompts that are tried, so that they cross its edge
_HIDDEN, _HEADS, _KV_HEADS, _HEAD_DIM, _ROTARY_DIM = 64, 4, 2, 16, 8
_LEAST_LAYERS, _MOST_LAYERS = 2, 12
_MOST_WIDTHS = 4  # a size that is so many times the hidden size at most stays so
_LARGE = 256  # an integer above it that no rule names, and that is no id or position, is taken for a size

_OF_LAYERS = ("num_hidden_layers", "layers_block_type", "layer_types", "hybrid_layer_ids", "num_kv_shared_layers")
# Native names; a configuration may have one of them, or several that mean the same.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers", "depth")
_WIDTHS = ("hidden_size", "d_model", "n_embd", "emb_dim", "dim_model", "embed_dim")
_QUERY_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "attention_heads")

# The largest value of a field whose whole name matches: of what a layer computes and does not cache,
_COMPUTED: tuple[tuple[str, int], ...] = (
    (r"\w*vocab_size\w*", VOCABULARY),
    (r"\w*intermediate_size\w*|\w*ffn_dim|\w*ffn_hidden_size|n_inner|dff|dim_ff|mlp_dim|mlp_hidden_size|ffn_size", 48),
    (r"num_experts_per_tok(en)?|num_selected_experts|moe_top_?k|moe_k|top_k_experts|topk|experts_per_token", 2),
    (r"n_shared_experts|num_shared_experts|moe_num_shared_experts|first_k_dense_replace|num_dense_layers", 1),
    (r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|zero_expert_num|num_routed_experts", 4),
    (r"n_group|topk_group", 2),
    (r"encoder_layers|num_encoder_layers|num_nextn_predict_layers|num_mtp_layers", 1),
)
# and of what decides what it caches.
_CACHED: tuple[tuple[str, int], ...] = (
    (r"qk_rope_head_dim|indexer_rope_head_dim", _ROTARY_DIM),
    (r"\w*head_?dim|\w*head_size|d_head|dim_head|d_kv|kv_channels|\w*mamba_d_head", _HEAD_DIM),
    (r"q_lora_rank", 24),
    (r"\w*lora_rank|\w*lowrank|\w*_rank", 16),
    (r"linear_num_key_heads|mamba_n_groups|n_groups|mamba_ngroups", 2),
    (r"linear_num_value_heads|index_n_heads|linear_num_heads|indexer_n_heads", 4),
    (r"mamba_num_heads|mamba_n_heads|n_mamba_heads", 8),
    (r"mamba_d_state|state_size|ssm_state_size", 16),
    (r"mamba_d_ssm", 2 * _HIDDEN),
    (r"attention_chunk_size", 256),  # no question can be longer
    (r"\w*chunk_size|block_size|index_block_size", 16),
    (r"\w*sliding_window|\w*window_size|local_attention|sliding_window_size", WINDOW),
    (r"index_topk|indexer_budget|keep_window_size", 8),  # fewer than the tokens of what is tried
    (r"index_topk_blocks", 1),
    (r"index_kpool", 4),  # divides index_topk
    (r"\w*decoder_attention_heads|\w*encoder_attention_heads", _HEADS),
    (r"\w*position_embeddings|n_positions|n_ctx|max_seq_len|\w*target_positions|\w*source_positions", 2**17),
)
_NO_SIZE = re.compile(r"\w*(token|_id|_ids|index|position|length|seed|theta|tokens|per_image|size_base|stride)\w*")
_OF_THE_BASE = ("transformers_version", "_name_or_path", "output_attentions")  # which not every class takes
_TOKEN_ID = re.compile(r"\w*(token_ids?|token_index|_token_idx)")


@dataclass(frozen=True)
class _Sizes:
    """What the fields of one configuration mean to each other."""

    layers: int
    hidden: int
    heads: int
    head_dim: int
    rotary: int  # of a latent attention's keys


def shrink(config: PretrainedConfig, *, keeps_cache: bool = False, is_text: bool = True) -> PretrainedConfig:
    """A small configuration of the same kind; `config` is not changed. With `keeps_cache` its layers are fewer and
    compute less, but each caches what it did.

    Raises what the configuration raises for sizes that do not fit together.
    """
    values = config.to_dict()
    sizes = _sizes_of(values)
    change = _compute_less if keeps_cache and is_text else _shrunken
    small = {name: change(name, value, sizes) for name, value in values.items()}
    small = {name: value for name, value in small.items() if name not in _OF_THE_BASE}
    small.update(_fewer_layers(values, sizes, change))
    for name in values:
        if isinstance(part := vars(config).get(name), PretrainedConfig):
            is_text_part = is_text and name not in ("vision_config", "audio_config")
            own = shrink(part, keeps_cache=keeps_cache, is_text=is_text_part).to_dict()
            small[name] = {key: value for key, value in own.items() if key not in _OF_THE_BASE}
    if is_text and "vocab_size" in values:
        small.update(vocab_size=VOCABULARY, pad_token_id=0, eos_token_id=2)
    quirk = QUIRKS.get(str(values.get("model_type")), {})
    if keeps_cache:  # sizes stay
        quirk = {name: value for name, value in quirk.items() if name in _OF_LAYERS}
    small.update({name: value for name, value in quirk.items() if value is not ...})
    for name in [name for name, value in quirk.items() if value is ...]:  # what the class computes by itself
        small.pop(name, None)
    return type(config).from_dict(small)


def _sizes_of(values: Mapping[str, Any]) -> _Sizes:
    def first(names: Sequence[str]) -> int:
        return next((values[name] for name in names if type(values.get(name)) is int), 0)

    hidden, heads = first(_WIDTHS), first(_QUERY_HEADS)
    head_dim = values.get("head_dim") or (hidden // heads if heads else 0)
    layers = first(_LAYERS) or len(values.get("layers_block_type") or ())
    return _Sizes(layers, hidden, heads, head_dim if type(head_dim) is int else 0, first(["qk_rope_head_dim"]))


def _shrunken(name: str, value: Any, sizes: _Sizes) -> Any:
    """The value of one field; lists by layer are left as they are."""
    if name == "rope_parameters" and isinstance(value, Mapping):
        return _fitting_rope(value, sizes)
    if _TOKEN_ID.fullmatch(name):
        return _within_vocabulary(value)
    if type(value) is not int or value <= 0:
        return value
    if name in _WIDTHS:
        return min(value, _HIDDEN)
    if name in _QUERY_HEADS:
        return min(value, _HEADS)
    if re.fullmatch(r"\w*num_key_value_heads|num_kv_heads|n_kv_heads|kv_n_heads|multi_query_group_num", name):
        return min(value, _KV_HEADS) if value != sizes.heads else min(value, _HEADS)
    if sizes.rotary and name == "head_dim" and value == sizes.rotary:
        return min(value, _ROTARY_DIM)
    if sizes.rotary and name == "qk_head_dim":
        return min(sizes.rotary, _ROTARY_DIM) + min(value - sizes.rotary, _HEAD_DIM)
    if name == "rotary_dim" and sizes.head_dim:
        return max(2, value * min(sizes.head_dim, _HEAD_DIM) // sizes.head_dim)
    for pattern, limit in _COMPUTED + _CACHED:
        if re.fullmatch(pattern, name):
            return min(value, limit)
    if value > _LARGE and not _NO_SIZE.fullmatch(name):
        is_multiple = bool(sizes.hidden) and value % sizes.hidden == 0 and value // sizes.hidden <= _MOST_WIDTHS
        return _HIDDEN * (value // sizes.hidden) if is_multiple else _HIDDEN
    return value


def _compute_less(name: str, value: Any, sizes: _Sizes) -> Any:
    """The value of one field where a layer is to cache what it did."""
    if _TOKEN_ID.fullmatch(name) or any(re.fullmatch(pattern, name) for pattern, _ in _COMPUTED):
        return _shrunken(name, value, sizes)
    return value


def _within_vocabulary(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_within_vocabulary(one) for one in value]
    return value % (VOCABULARY - 16) + 8 if type(value) is int and value >= VOCABULARY else value


def _fitting_rope(rope: Mapping[str, Any], sizes: _Sizes) -> dict[str, Any]:
    """RoPE parameters whose lists have one entry for each rotated pair, for the smaller heads."""
    small: dict[str, Any] = {}
    for name, value in rope.items():
        if isinstance(value, Mapping):  # by kind of layer
            small[name] = _fitting_rope(value, sizes)
        elif name in ("short_factor", "long_factor") and isinstance(value, list | tuple):
            wanted = max(1, len(value) * min(sizes.head_dim, _HEAD_DIM) // max(1, sizes.head_dim))
            small[name] = list(value[:wanted])
        elif name == "mrope_section" and isinstance(value, list | tuple):
            small[name] = _divided(value, min(sizes.head_dim, _HEAD_DIM), sizes.head_dim)
        else:
            small[name] = value
    return small


def _divided(section: Sequence[int], small: int, large: int) -> list[int]:
    """Parts of the rotated pairs in about the same proportions, at least one pair each."""
    total = max(len(section), sum(section) * small // max(1, large))
    parts = [max(1, part * total // sum(section)) for part in section]
    parts[-1] += total - sum(parts)
    return parts


def layer_kinds(config: PretrainedConfig) -> tuple[list[int], list[int]]:
    """The layers that `shrink` keeps, and for each layer the place among them of one of its kind."""
    return _chosen_layers(config.to_dict(), _sizes_of(config.to_dict()))


def _chosen_layers(values: Mapping[str, Any], sizes: _Sizes) -> tuple[list[int], list[int]]:
    kinds = _labels(values, sizes)
    chosen = sorted({kinds.index(kind) for kind in kinds})[:_MOST_LAYERS]
    more = [layer for layer in range(sizes.layers) if layer not in chosen]
    chosen = sorted(chosen + more[: max(0, _LEAST_LAYERS - len(chosen))])
    place = {kinds[layer]: number for number, layer in reversed(list(enumerate(chosen)))}
    return chosen, [place.get(kind, 0) for kind in kinds]


def layer_labels(config: PretrainedConfig) -> list[str]:
    """What a configuration says of each layer alone: layers with the same are of one kind."""
    return _labels(config.to_dict(), _sizes_of(config.to_dict()))


def _labels(values: Mapping[str, Any], sizes: _Sizes) -> list[str]:
    by_layer, own, rule = _lists_by_layer(values, sizes), _own_fields(values), _rule_of(values)
    ruled = rule.kinds(values, sizes.layers) if rule else [""] * sizes.layers
    return [
        repr([ruled[layer], own.get(layer), *(value[layer] for value in by_layer.values())])
        for layer in range(sizes.layers)
    ]


def _rule_of(values: Mapping[str, Any]) -> LayerRule | None:
    return LAYER_RULES.get(str(values.get("model_type")))


def _lists_by_layer(values: Mapping[str, Any], sizes: _Sizes) -> dict[str, list[Any]]:
    return {
        name: list(value)
        for name, value in values.items()
        if isinstance(value, list | tuple) and sizes.layers and len(value) == sizes.layers
    }


def _own_fields(values: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """The fields of layers that have their own."""
    return {int(layer): fields for layer, fields in (values.get("per_layer_config") or {}).items()}


def _fewer_layers(
    values: Mapping[str, Any], sizes: _Sizes, change: Callable[[str, Any, _Sizes], Any]
) -> dict[str, Any]:
    """The fields that count or list layers, for the first layer of each kind, in order."""
    chosen, _ = _chosen_layers(values, sizes)
    found: dict[str, Any] = {name: len(chosen) for name in _LAYERS if type(values.get(name)) is int}
    if own := _own_fields(values):
        found["per_layer_config"] = {
            number: {name: _own_value(name, value, sizes, change) for name, value in own[layer].items()}
            for number, layer in enumerate(chosen)
            if layer in own
        }
    if (rule := _rule_of(values)) is not None:
        kinds = rule.kinds(values, sizes.layers)
        found.update(rule.fields([kinds[layer] for layer in chosen]))
    by_layer = _lists_by_layer(values, sizes)
    return found | {name: [change(name, value[layer], sizes) for layer in chosen] for name, value in by_layer.items()}


def _own_value(name: str, value: Any, sizes: _Sizes, change: Callable[[str, Any, _Sizes], Any]) -> Any:
    """One layer's own size; its heads may be larger than those of the others."""
    if change is _shrunken and name == "head_dim" and type(value) is int and sizes.head_dim:
        return max(2, value * min(sizes.head_dim, _HEAD_DIM) // sizes.head_dim)
    return change(name, value, sizes)
