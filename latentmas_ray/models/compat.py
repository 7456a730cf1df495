"""Checks whether a transformers model can collaborate, and wraps it as a `LanguageModel`."""

import re
from collections.abc import Iterator
from inspect import signature
from typing import Any

import torch
import xxhash
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from latentmas_ray.errors import LatentMASError, ModelError, first_line
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.memory.layer_spec import DTYPES
from latentmas_ray.memory.wire import raw_bytes
from latentmas_ray.models import attention
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.kv_spec import check_attention, probed_spec, text_config
from latentmas_ray.models.language_model import LanguageModel, decoder_of
from latentmas_ray.models.layers import cached_layers
from latentmas_ray.models.probe import probe
from latentmas_ray.parallel.ranks import ALONE, Ranks, whole

# What an unusual model may raise when it is used like a decoder-only model of transformers.
_UNUSUAL = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


_TEXT_INPUTS = {
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "position_ids",
    "past_key_values",
    "use_cache",
    "labels",
    "logits_to_keep",
    "kwargs",
}


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, ranks: Ranks = ALONE) -> LanguageModel:
    """Wrap transformers objects as a `LanguageModel`. The model is set to evaluation mode and gets the engine's
    attention, which is `sdpa` outside of an engine. `ranks` are the ranks that transformers has divided it over.

    Raises ModelError for a model that cannot collaborate, according to its configuration or a few test forwards.
    """
    try:
        check_config(model.config, name)
        model = _language_part(model)
        check_build(model, name)
        model.eval().requires_grad_(False)
        chat = ChatTokenizer(tokenizer, name, _stop_ids(model))
        lm = LanguageModel(name, model, chat, _spec(model, name, ranks), ranks)
        check_tokenizer(tokenizer, model, name)
        check_ids(model, name)
        chat.check_template()
        return probe(lm)
    except LatentMASError:
        raise
    except _UNUSUAL as error:
        expected = "it must work like a usual decoder-only model of transformers"
        raise ModelError("model", name, f"{expected}: {type(error).__name__}: {first_line(error)}") from error


def check_config(config: PretrainedConfig, name: str) -> None:
    """Raises ModelError for a model that cannot collaborate according to its configuration."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            "model", name, "it must be decoder-only; this is an encoder-decoder, whose memory is of two kinds"
        )
    check_attention(config, name)


def weights_revision(model: nn.Module, ranks: Ranks = ALONE) -> str:
    """A digest of all weights, independent of where they were loaded from and of their devices.

    Divided weights are gathered for it, one at a time.
    """
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        with ranks.collective():
            full = whole(tensor)
        if ranks.shard.rank == 0:
            digest.update(name.encode())
            digest.update(raw_bytes(full.contiguous()).data)
    return ranks.broadcast_from_rank0(digest.hexdigest)


def _language_part(model: PreTrainedModel) -> PreTrainedModel:
    """The part that answers text: the whole model, or a causal language model in it that has the projection."""
    if model.get_output_embeddings() is not None:
        return model
    parts = (child for child in model.children() if isinstance(child, PreTrainedModel))
    return next((part for part in parts if part.get_output_embeddings() is not None), model)


def _spec(model: PreTrainedModel, name: str, ranks: Ranks) -> KVCacheSpec:
    with torch.inference_mode(), ranks.collective():
        device, token = model.get_input_embeddings().weight.device, text_config(model.config).vocab_size // 2
        try:
            layers = cached_layers(decoder_of(model), device, token, name)
        except _UNUSUAL as error:
            if (needed := _named_inputs(model, error)) is None:
                raise
            expected = f"it must answer text alone, and each forward of {type(model).__name__} needs"
            raise ModelError("model", name, f"{expected} {needed}: use a model that also works without") from error
    return probed_spec(
        model.config,
        name,
        layers,
        architecture=type(model).__name__,
        dtype=_dtype_name(model, name),
        weights_revision=weights_revision(model, ranks),
        shard=ranks.shard,
    )


def _named_inputs(model: PreTrainedModel, error: Exception) -> str | None:
    """The inputs besides text that an error of a forward asks for; None if it names none."""
    inputs = [name for name in signature(model.forward).parameters if name not in _TEXT_INPUTS]
    named = sorted({name for name in inputs if re.search(rf"\b{name}\b", str(error))})
    return " or ".join(named) if named else None


def check_build(model: PreTrainedModel, name: str) -> None:
    """Raises ModelError for a model that cannot collaborate according to its modules and weights."""
    if model.get_output_embeddings() is None:
        raise ModelError("model", name, f"it must have a vocabulary projection; {type(model).__name__} has none")
    if away := [key for key, weight in model.named_parameters() if weight.device.type == "meta"]:
        expected = f"all its weights must lie on GPUs or on the CPU; {len(away)} are offloaded or empty, like {away[0]}"
        raise ModelError("model", name, expected)
    own = getattr(model.config, "_attn_implementation", "sdpa")
    if own not in ("eager", "sdpa", attention.NAME):  # the others may compute something else than a family's own
        raise ModelError("model", name, f"its attn_implementation must be 'sdpa' or 'eager', not {own!r}")
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("inv_freq") and buffer.dtype != torch.float32:
            raise ModelError(
                "model",
                name,
                f"its RoPE frequencies must be float32, not {buffer.dtype}: convert it with from_pretrained(dtype=…), "
                "which keeps them, instead of .to(…)",
            )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Raises ModelError unless the tokenizer works, and the model has an embedding for every id that it knows: a lookup
    beyond the embeddings ends a process on a GPU."""
    check_fits(tokenizer, model.get_input_embeddings().weight.shape[0], name)


def check_fits(tokenizer: PreTrainedTokenizerBase, num_embeddings: int, name: str) -> None:
    """Raises ModelError unless the tokenizer works and knows ids below `num_embeddings` alone. transformers makes an
    empty tokenizer up where a folder has none."""
    ids = tokenizer("Question 1", add_special_tokens=False)["input_ids"]
    if not ids or not tokenizer.decode(list(ids), skip_special_tokens=True).strip():
        raise ModelError("model", name, "its tokenizer must be there and turn text into tokens and back")
    token, highest = max(tokenizer.get_vocab().items(), key=lambda one: one[1], default=("", -1))
    if (top := max(highest, *ids)) >= num_embeddings:
        which = f"token {top} ({token!r})" if top == highest else f"token {top}"
        expected = f"its tokenizer must fit: {which}, but the model has {num_embeddings} embeddings, 0 to"
        raise ModelError("model", name, f"{expected} {num_embeddings - 1}; resize them to the tokenizer")


def check_ids(model: PreTrainedModel, name: str) -> None:
    """Raises ModelError unless the model has an embedding for every id that a configuration names."""
    num_embeddings = model.get_input_embeddings().weight.shape[0]
    for field, top in _configured_ids(model):
        if top >= num_embeddings:
            expected = f"its {field} must be one of its {num_embeddings} embeddings, 0 to {num_embeddings - 1}; it is"
            raise ModelError("model", name, f"{expected} {top}")


def _configured_ids(model: PreTrainedModel) -> Iterator[tuple[str, int]]:
    """The special tokens of the configuration and of the generation configuration, with their fields."""
    text = text_config(model.config)
    parts = [("", model.config), ("text ", text)] if text is not model.config else [("", model.config)]
    for kind, config in (*parts, ("generation ", getattr(model, "generation_config", None))):
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            for one in _token_ids(getattr(config, key, None)):
                yield f"{kind}{key}", one


def _token_ids(value: Any) -> list[int]:
    """The ids in a field of a configuration, which holds one, several or none; -1 is none in old files."""
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return [number for one in values if (number := int(one)) >= 0]


def _dtype_name(model: PreTrainedModel, name: str) -> str:
    for text, dtype in DTYPES.items():
        if model.dtype == dtype:
            return text
    raise ModelError("model", name, f"its dtype must be one of {', '.join(DTYPES)}; it is {model.dtype}")


def _stop_ids(model: PreTrainedModel) -> list[int]:
    """The end tokens of the configuration and of the generation configuration; some models name several, or others in
    each of the two."""
    configs = (model.config, text_config(model.config), getattr(model, "generation_config", None))
    return [one for config in configs for one in _token_ids(getattr(config, "eos_token_id", None))]
