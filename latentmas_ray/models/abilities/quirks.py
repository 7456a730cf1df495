"""What the names of a configuration's fields do not say about its sizes, by `model_type`: the one place for it.

The values replace those that `shrink` finds; `...` leaves a field to its class, which computes it from the others.
"""

from collections.abc import Mapping
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
    # Kinds of layers by the arithmetic of their number.
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 4,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [2]},
    # One transformer block that several layers share.
    "zamba": {
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "hybrid"] * 3,
        "attention_head_dim": 32,  # of the block's input, which is twice as wide as a layer's
    },
    "zamba2": {"attention_head_dim": 32},
}
