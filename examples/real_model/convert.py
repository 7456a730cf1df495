"""Makes a folder that transformers loads of a Llama model in a GGUF file: weights, configuration, tokenizer.

The weights are those of the file: quantised numbers are expanded to floats, so they differ from those that the model's
makers published.

Dimensions: O output and I input features of a matrix, H heads, D head dim.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from examples.real_model.folder import ModelDtype
from latentmas_ray.errors import RunError

if TYPE_CHECKING:
    from gguf import GGUFReader

_SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}  # transformers' name, that of the file
_CONTROL = 3  # in tokenizer.ggml.token_type: a token that is no text
_OF_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_OF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.weight")


def convert(gguf_file: Path, folder: Path, dtype: ModelDtype) -> None:
    """Write the model of `gguf_file` into `folder`, with weights in `dtype`. The same input gives the same bytes.

    Raises RunError if the package gguf is missing, or if the file holds another kind of model or tokenizer; OSError.
    """
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise RunError("the package gguf is missing: make real, or pip install '.[real]' in a checkout") from error
    reader = GGUFReader(gguf_file)
    read_config(reader, dtype).save_pretrained(folder)
    ids = {f"{name}_token_id": number for name, number in _special_ids(reader).items() if name != "unk"}
    GenerationConfig(**ids).save_pretrained(folder)
    read_tokenizer(reader).save_pretrained(folder)
    weights = {name: torch.from_numpy(array).to(getattr(torch, dtype)) for name, array in read_weights(reader)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def read_config(reader: "GGUFReader", dtype: ModelDtype) -> LlamaConfig:
    """Return the model's configuration. Raises RunError unless it is a plain Llama."""
    if (architecture := _read(reader, "general.architecture")) != "llama":
        raise RunError(f"the file holds a model of architecture {architecture}; only llama is converted")
    names = {tensor.name for tensor in reader.tensors}
    num_heads, hidden_size = _read(reader, "llama.attention.head_count"), _read(reader, "llama.embedding_length")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=_read(reader, "llama.vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_read(reader, "llama.feed_forward_length"),
        num_hidden_layers=_read(reader, "llama.block_count"),
        num_attention_heads=num_heads,
        num_key_value_heads=_read(reader, "llama.attention.head_count_kv"),
        head_dim=hidden_size // num_heads,
        max_position_embeddings=_read(reader, "llama.context_length"),
        rms_norm_eps=_read(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": _read(reader, "llama.rope.freq_base")},
        tie_word_embeddings="output.weight" not in names,
        dtype=dtype,
        **{f"{name}_token_id": number for name, number in _special_ids(reader).items()},
    )


def read_weights(reader: "GGUFReader") -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield every tensor with the name that transformers gives it. Raises RunError for a tensor that Llama lacks."""
    from gguf import dequantize

    heads = {
        "attn_q": _read(reader, "llama.attention.head_count"),
        "attn_k": _read(reader, "llama.attention.head_count_kv"),
    }
    for tensor in reader.tensors:
        match = _NAME.fullmatch(tensor.name)
        layer, part = (None, "") if match is None else (match["layer"], match["part"])
        name = (_OF_MODEL if layer is None else _OF_LAYER).get(part)
        if name is None:
            raise RunError(f"the file has a tensor {tensor.name}, which a Llama model does not have")
        array = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if part in heads:
            array = _in_halves(array, heads[part])
        prefix = "" if layer is None else f"model.layers.{layer}."
        # A copy, since some arrays are views of the file, which is read-only.
        yield f"{prefix}{name}.weight", np.array(array, order="C")


def _in_halves(weight_OI: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Return the rows of each head in transformers' order. RoPE rotates pairs of rows: the file has the two of a pair
    next to each other, transformers has all first ones before all second ones."""
    num_rows, num_columns = weight_OI.shape
    pairs = weight_OI.reshape(num_heads, num_rows // num_heads // 2, 2, num_columns)
    return pairs.swapaxes(1, 2).reshape(num_rows, num_columns)


def read_tokenizer(reader: "GGUFReader") -> PreTrainedTokenizerFast:
    """Return the tokenizer: byte-level BPE that splits numbers into digits before anything else.

    The file only names that splitting (`smollm`), so readers who do not know the name leave it out. Raises RunError for
    another kind of tokenizer, and for a file without a chat template.
    """
    kind = (_read(reader, "tokenizer.ggml.model"), _read(reader, "tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise RunError(f"the file has a tokenizer of kind {kind[0]}, {kind[1]}; only gpt2, smollm is converted")
    texts = _read(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _read(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({text: number for number, text in enumerate(texts)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = _read(reader, "tokenizer.ggml.token_type")
    control = [text for text, kind in zip(texts, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=_read(reader, "llama.context_length"),
        chat_template=_read(reader, "tokenizer.chat_template"),
        extra_special_tokens=control,
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": texts[number] for name, number in _special_ids(reader).items()},
    )


def _special_ids(reader: "GGUFReader") -> dict[str, int]:
    """Return the ids of the special tokens, by transformers' names of them."""
    return {name: _read(reader, f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}


def _read(reader: "GGUFReader", key: str) -> Any:
    """Return a value of the file's header. Raises RunError if it is not there."""
    field = reader.get_field(key)
    if field is None:
        raise RunError(f"the file has no {key}")
    return field.contents()
