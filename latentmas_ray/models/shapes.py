"""Random models of well-known shapes, for measuring where no weights are at hand. Their answers mean nothing."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from latentmas_ray.errors import ModelError
from latentmas_ray.memory.spec import DTYPES
from latentmas_ray.models.accept import wrap
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.tiny import tiny_tokenizer

# hidden size, MLP size, layers, query heads, KV heads, tied embeddings; from the models' published configurations
_QWEN3 = {
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, True),
    "qwen3-1.7b": (2048, 6144, 28, 16, 8, True),
    "qwen3-4b": (2560, 9728, 36, 32, 8, True),
    "qwen3-8b": (4096, 12288, 36, 32, 8, False),
    "qwen3-14b": (5120, 17408, 40, 40, 8, False),
}
SHAPES = tuple(_QWEN3)
_SEED = 2511_20639


def shape_config(shape: str, *, dtype: str = "bfloat16") -> Qwen3Config:
    """The configuration of one of `SHAPES`. Raises ModelError for an unknown shape."""
    if shape not in _QWEN3:
        raise ModelError("model", shape, f"the shapes are {', '.join(SHAPES)}")
    hidden, mlp, layers, heads, kv_heads, tied = _QWEN3[shape]
    return Qwen3Config(
        vocab_size=151_936,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=128,
        tie_word_embeddings=tied,
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], attn_implementation="sdpa")
    return wrap(model.to(device), tiny_tokenizer(), shape)


def save_random_model(shape: str, folder: Path, *, dtype: str = "bfloat16") -> None:
    """`random_model` as a model folder that `--model` accepts."""
    lm = random_model(shape, dtype=dtype)
    lm.model.save_pretrained(folder)
    lm.chat.tokenizer.save_pretrained(folder)
