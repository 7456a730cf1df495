"""What the names of a configuration's fields do not say about its sizes, by `model_type`: the one place for it.

The values replace those that `shrink` finds; `...` leaves a field to its class, which computes it from the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

QUIRKS: Mapping[str, Mapping[str, Any]] = {
    # Heads of a state that must fill the widened hidden size.
    "falcon_h1": {"mamba_d_head": 16},
    "mamba2": {"num_heads": 8},
    # Layers that reuse the keys of the last one of their kind before them.
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "num_kv_shared_layers": 2,
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
    },
    "reformer": {"axial_pos_embds_dim": [16, 48]},  # parts of the hidden size
    # One transformer block that several layers share.
    "zamba": {
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "hybrid"] * 3,
        "attention_head_dim": 32,  # of the block's input, which is twice as wide as a layer's
    },
    "zamba2": {
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "hybrid"] * 3,
        "hybrid_layer_ids": ...,
        "attention_head_dim": 32,
        "kv_channels": ...,
        "mamba_headdim": ...,
        "attention_hidden_size": ...,
    },
}


@dataclass(frozen=True)
class LayerRule:
    """How a family's configuration says of what kind each layer is, where it has no list with an entry for each.

    `kinds` returns them, given the configuration and the number of layers; `fields` are those of a configuration whose
    layers have these kinds.
    """

    kinds: Callable[[Mapping[str, Any], int], list[str]]
    fields: Callable[[Sequence[str]], Mapping[str, Any]]


def _places(kinds: Sequence[str], kind: str) -> list[int]:
    return [layer for layer, own in enumerate(kinds) if own == kind]


def _listed(field: str) -> LayerRule:
    """The rule of a family that lists the numbers of its special layers."""
    return LayerRule(
        lambda values, count: [field if layer in (values.get(field) or ()) else "" for layer in range(count)],
        lambda kinds: {field: _places(kinds, field)},
    )


LAYER_RULES: Mapping[str, LayerRule] = {
    "bamba": _listed("attn_layer_indices"),
    "mllama_text_model": _listed("cross_attention_layers"),  # which a text passes by
    "jamba": LayerRule(
        lambda values, count: [
            "attention" if layer % values["attn_layer_period"] == values["attn_layer_offset"] else "mamba"
            for layer in range(count)
        ],
        lambda kinds: {
            "attn_layer_period": len(kinds),
            "attn_layer_offset": next(iter(_places(kinds, "attention")), len(kinds)),
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
    ),
    # Layers that are computed several times and cache each time; one of them is one layer here.
    "hrm_text": LayerRule(
        lambda values, count: [""] * count,
        lambda kinds: {"num_layers_per_stack": 1, "H_cycles": 1, "L_cycles": len(kinds) - 1},
    ),
}
