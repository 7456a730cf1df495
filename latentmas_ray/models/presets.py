"""The architecture of the embedded models, and random models of several shapes.

The embedded models (`--model tiny`, `--model small`) are small Qwen3s, trained from scratch for the built-in tasks by
`examples/tiny_model`; their model cards are in the folders of their weights. Random models are for tests and
measurements without weights: their answers mean nothing.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from latentmas_ray.config import EMBEDDED_MODELS
from latentmas_ray.errors import ModelError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.memory.layer_spec import DTYPES
from latentmas_ray.models.compat import wrap
from latentmas_ray.models.kv_spec import kv_cache_spec, rope_spec
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.load import load_config, load_model
from latentmas_ray.placement.model_dims import PRESETS

SHAPES = tuple(name for name in PRESETS if name.startswith("qwen3-"))  # random models are all of this family
_SEED = 2511_20639
_STD = 0.08  # large enough that different memories give visibly different answers
_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def untrained_model(
    vocab_size: int,
    *,
    num_layers: int = 4,
    hidden_size: int = 256,
    mlp_size: int = 512,
    end_id: int = 2,
    pad_id: int = 0,
) -> Qwen3ForCausalLM:
    """The architecture of an embedded model with random weights; by default that of `tiny`: 2.8M parameters with a
    vocabulary of 800."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=mlp_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
        eos_token_id=end_id,
        pad_token_id=pad_id,
        bos_token_id=None,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def wrap_tokenizer(
    tokenizer: object, *, end: str = "<|im_end|>", pad: str = "<|endoftext|>", template: str = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """Wrap a trained tokenizer with special tokens and a chat template; by default those of `tiny`."""
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=pad, chat_template=template)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: one token per byte, three special tokens, a ChatML template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*_SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(_SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


def tiny_model(dtype: torch.dtype) -> Qwen3ForCausalLM:
    """A random Qwen3 of about 1M parameters, the same on every machine; does not use the global random state."""
    config = Qwen3Config(
        vocab_size=len(_SPECIAL) + 256,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=32_768,
        tie_word_embeddings=False,
        eos_token_id=2,
        pad_token_id=0,
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        model = Qwen3ForCausalLM(config)
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0.0, _STD, generator=generator)
        # Not model.to(dtype), which would round the RoPE frequencies as well.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model


def shape_config(shape: str, *, dtype: str = "bfloat16") -> Qwen3Config:
    """The configuration of one of `SHAPES`. Raises ModelError for an unknown shape."""
    if shape not in SHAPES:
        raise ModelError("model", shape, f"the shapes are {', '.join(SHAPES)}")
    dims = PRESETS[shape]
    return Qwen3Config(
        vocab_size=dims.vocab_size,
        hidden_size=dims.hidden_size,
        intermediate_size=dims.mlp_size,
        num_hidden_layers=dims.num_layers,
        num_attention_heads=dims.num_heads,
        num_key_value_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        tie_word_embeddings=dims.is_tied,
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
    # Drawn on the device: billions of numbers take minutes on a CPU, and would have to be copied.
    with torch.random.fork_rng([device] if device.startswith("cuda") else []), torch.device(device):
        torch.manual_seed(_SEED)
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, dtype=DTYPES[dtype], attn_implementation="sdpa"
        )
    return wrap(model.to(device), tiny_tokenizer(), shape)


def save_random_model(shape: str, folder: Path, *, dtype: str = "bfloat16", device: str = "cpu") -> None:
    """Save `random_model` as a model folder for `--model`."""
    lm = random_model(shape, dtype=dtype, device=device)
    lm.model.save_pretrained(folder)
    lm.chat.tokenizer.save_pretrained(folder)


def kv_shape(name: str, *, dtype: str = "auto") -> KVCacheSpec:
    """The KV spec of one of `SHAPES`, of an embedded model, or of a model folder or hub id; `dtype` auto keeps the
    model's own.

    Raises ModelError.
    """
    if name in EMBEDDED_MODELS:
        return load_model(name, dtype=dtype, device="cpu").spec
    if name in SHAPES:
        config: PretrainedConfig = shape_config(name, dtype="bfloat16" if dtype == "auto" else dtype)
    else:
        config = load_config(name)
    own = next((text for text, kind in DTYPES.items() if kind == config.dtype), "bfloat16")
    return kv_cache_spec(
        config,
        name,
        architecture=(getattr(config, "architectures", None) or [type(config).__name__])[0],
        dtype=own if dtype == "auto" else dtype,
        weights_revision="shape alone",  # no model reads such memory
        rope=rope_spec(config, name),
    )
