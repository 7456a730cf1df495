"""Random models of well-known shapes, for measuring where no weights are at hand. Their answers mean nothing."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from latentmas_ray.errors import ModelError
from latentmas_ray.memory.layer_spec import DTYPES
from latentmas_ray.models.compat import wrap
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.tiny import tiny_tokenizer
from latentmas_ray.placement.model_dims import PRESETS

SHAPES = tuple(PRESETS)
_SEED = 2511_20639


def shape_config(shape: str, *, dtype: str = "bfloat16") -> Qwen3Config:
    """The configuration of one of `SHAPES`. Raises ModelError for an unknown shape."""
    if shape not in PRESETS:
        raise ModelError("model", shape, f"the shapes are {', '.join(SHAPES)}")
    figures = PRESETS[shape]
    return Qwen3Config(
        vocab_size=figures.vocab_size,
        hidden_size=figures.hidden_size,
        intermediate_size=figures.mlp_size,
        num_hidden_layers=figures.num_layers,
        num_attention_heads=figures.num_heads,
        num_key_value_heads=figures.num_kv_heads,
        head_dim=figures.head_dim,
        tie_word_embeddings=figures.is_tied,
        max_position_embeddings=40_960,
        rope_theta=1_000_000.0,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
        dtype=DTYPES[dtype],
    )


def random_model(shape: str, *, dtype: str = "bfloat16", device: str = "cpu") -> LanguageModel:
    """A Qwen3 of one of `SHAPES` with random weights, the byte tokenizer and a ChatML template.

    Raises ModelError for an unknown shape.
    """
    config = shape_config(shape, dtype=dtype)
    # Drawn on the device itself: billions of numbers take minutes on a CPU, and then have to be copied.
    with torch.random.fork_rng([device] if device.startswith("cuda") else []), torch.device(device):
        torch.manual_seed(_SEED)
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], attn_implementation="sdpa")
    return wrap(model.to(device), tiny_tokenizer(), shape)


def save_random_model(shape: str, folder: Path, *, dtype: str = "bfloat16") -> None:
    """`random_model` as a model folder that `--model` accepts."""
    lm = random_model(shape, dtype=dtype)
    lm.model.save_pretrained(folder)
    lm.chat.tokenizer.save_pretrained(folder)
