"""What a default configuration lacks to make a model at all, or to be of the kind that is published."""

from collections.abc import Mapping
from typing import Any

_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_MROPE = {"text_config": {"rope_parameters": {**_ROPE, "mrope_section": [16, 24, 24]}}}
_COMPASS = {"rope_parameters": {"full_attention": {**_ROPE, "mrope_section": [22, 22, 20]}}}
_MUSIC = {
    "text_encoder": {"model_type": "t5"},
    "audio_encoder": {"model_type": "encodec"},
}
_QWEN4 = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 256,
    "indexer_budget": 64,
    "indexer_compress_ratio": 8,
    "ple_embed_dim": 256,
    "ple_layer_ids": [1],
    "eos_token_id": 2,
    "ngram_vocab_size_base": 300,
}

MADE_WITH: Mapping[str, Mapping[str, Any]] = {
    "bamba": {"num_hidden_layers": 4, "attn_layer_indices": [2]},
    "chameleon": {"vocabulary_map": {"<image>": 8, "IMGIMGBSZ": 9}},
    # Multipliers that are 1 in default configurations, and are not in published models.
    "falcon_h1": {"lm_head_multiplier": 0.25, "embedding_multiplier": 3.0, "key_multiplier": 0.5},
    "granite": {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22},
    "granitemoe": {"logits_scaling": 6.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22},
    "hyperclovax": {"logits_scaling": 0.125},
    "cohere_compass": {"text_config": _COMPASS},
    "cohere_compass_text": _COMPASS,
    "dbrx": {"attn_config": {"kv_n_heads": 8, "rope_theta": 500_000.0, "clip_qkv": 8}},
    "deepseek_ocr2": {
        "text_config": {"num_hidden_layers": 2, "mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 6}
    },
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
    "ernie4_5_vl_moe": {"text_config": {"rope_parameters": {**_ROPE, "mrope_section": [22, 22, 20]}}},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "gemma4_unified_assistant": {"text_config": {}},
    "gemma4": {"text_config": {"hidden_size_per_layer_input": 0}},  # as the larger ones are published
    "granite4_vision": {
        "text_config": {"model_type": "granite"},
        "deepstack_layer_map": [[-1, 0]],
        "downsample_rate": "4/8",
    },
    "granitemoehybrid": {"num_hidden_layers": 4, "layer_types": ["mamba", "mamba", "attention", "mamba"]},
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "hunyuan_vl": {"text_config": {"head_dim": 128, "rope_parameters": {**_ROPE, "mrope_section": [16, 24, 24]}}},
    # Short convolutions in most layers.
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "mllama": {"text_config": {"num_hidden_layers": 4, "cross_attention_layers": [2]}},
    "ministral": {"head_dim": 128},
    "musicgen": {**_MUSIC, "decoder": {"model_type": "musicgen_decoder"}},
    "musicgen_melody": {**_MUSIC, "decoder": {"model_type": "musicgen_melody_decoder"}},
    "vision-encoder-decoder": {"encoder": {"model_type": "vit"}, "decoder": {"model_type": "gpt2"}},
    "nemotron": {"num_key_value_heads": 8},
    # Three positions for each token, as a vision-language model has them.
    "glm4v": _MROPE,
    "glm46v": _MROPE,
    "glmga": _MROPE,
    "glm4v_moe": {
        "text_config": {
            "head_dim": 128,
            "rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [8, 12, 12]},
        }
    },
    "glm_ocr": {"text_config": {"head_dim": 128, **_MROPE["text_config"]}},
    "paddleocr_vl": _MROPE,
    "qwen2_vl": _MROPE,
    "qwen2_5_vl": _MROPE,
    "qwen2_5_omni_thinker": _MROPE,
    "qwen4_exp": {"text_config": _QWEN4},
    "qwen4_exp_text": _QWEN4,
    "step3p7": {"text_config": {"sliding_window": 512}},
    "reformer": {"is_decoder": True},
}
