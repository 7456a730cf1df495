"""Checks whether a transformers model can collaborate, and wraps it as a `LanguageModel`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from latentmas_ray.errors import LatentMASError, ModelError, first_line
from latentmas_ray.memory import KVCacheSpec, RopeSpec, rotate_keys
from latentmas_ray.memory.layer_spec import DTYPES
from latentmas_ray.memory.wire import raw_bytes
from latentmas_ray.models import attention
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.kv_spec import probed_spec, rope_spec
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.layers import cached_layers
from latentmas_ray.parallel.ranks import ALONE, Ranks, whole

# Kinds of layers, as transformers names them, that take in everything before a token: as keys, or summed up in a state.
_WITH_KEYS = {"full_attention", "attention", "hybrid"}
_WHOLE_PREFIX = _WITH_KEYS | {"linear_attention", "mamba", "conv", "moe", "mlp"}
# What an unusual model may raise when it is used like a decoder-only model of transformers.
_UNUSUAL = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, ranks: Ranks = ALONE) -> LanguageModel:
    """Wrap transformers objects as a `LanguageModel`. The model is set to evaluation mode and gets the engine's
    attention, which is `sdpa` outside of an engine. `ranks` are the ranks that transformers has divided it over.

    Raises ModelError for a model that cannot collaborate, according to its configuration or a few test forwards.
    """
    try:
        check_config(model.config, name)
        check_build(model, name)
        model.eval().requires_grad_(False)
        model.set_attn_implementation(attention.NAME)
        chat = ChatTokenizer(tokenizer, name, _stop_ids(model))
        lm = LanguageModel(name, model, chat, _spec(model, name, ranks), ranks)
        check_tokenizer(tokenizer, model, name)
        chat.check_template()
        lm = check_model(lm)
    except LatentMASError:
        raise
    except _UNUSUAL as error:
        expected = "it must work like a usual decoder-only model of transformers"
        raise ModelError("model", name, f"{expected}: {type(error).__name__}: {first_line(error)}") from error
    return lm


def check_config(config: PretrainedConfig, name: str) -> None:
    """Raises ModelError for a model that cannot collaborate according to its configuration."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError("model", name, "it must be decoder-only; this is an encoder-decoder")
    if config.get_text_config() is not config:
        raise ModelError("model", name, f"it must be a text-only model; {type(config).__name__} has other parts")
    kinds = getattr(config, "layer_types", None)
    other = sorted({kind for kind in kinds if kind not in _WHOLE_PREFIX}) if kinds else []
    if not kinds and getattr(config, "sliding_window", None):
        other = [f"sliding_window={config.sliding_window}"]
    if other:
        expected = f"all layers must attend to everything before them; this one has {', '.join(other)}"
        if (num_chosen := getattr(config, "index_topk", None)) is not None:
            expected += f", where an indexer chooses {num_chosen} tokens (sparse attention)"
        raise ModelError("model", name, expected)
    if kinds and not set(kinds) & _WITH_KEYS:
        expected = "at least one of its layers must attend to tokens; all of this one keep states instead"
        raise ModelError("model", name, f"{expected} ({', '.join(sorted(set(kinds)))})")
    if not kinds or set(kinds) == {"full_attention"}:  # where states give the order, keys need not
        rope_spec(config, name)


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


def _spec(model: PreTrainedModel, name: str, ranks: Ranks) -> KVCacheSpec:
    with torch.inference_mode(), ranks.collective():
        device, token = model.get_input_embeddings().weight.device, model.config.vocab_size // 2
        layers = cached_layers(model.get_decoder(), device, token)
    return probed_spec(
        model.config,
        name,
        layers,
        architecture=type(model).__name__,
        dtype=_dtype_name(model, name),
        weights_revision=weights_revision(model, ranks),
        shard=ranks.shard,
    )


def check_build(model: PreTrainedModel, name: str) -> None:
    """Raises ModelError for a model that cannot collaborate according to its modules and weights."""
    if model.get_output_embeddings() is None:
        raise ModelError("model", name, f"it must have a vocabulary projection; {type(model).__name__} has none")
    if away := [key for key, weight in model.named_parameters() if weight.device.type == "meta"]:
        expected = f"all its weights must lie on GPUs or on the CPU; {len(away)} are offloaded or empty, like {away[0]}"
        raise ModelError("model", name, expected)
    own = getattr(model.config, "_attn_implementation", "sdpa")
    if own not in ("sdpa", attention.NAME):  # the engine's attention may not compute the same as the others
        raise ModelError("model", name, f"its attn_implementation must be 'sdpa', not {own!r}")
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("inv_freq") and buffer.dtype != torch.float32:
            raise ModelError(
                "model",
                name,
                f"its RoPE frequencies must be float32, not {buffer.dtype}: convert it with from_pretrained(dtype=…), "
                "which keeps them, instead of .to(…)",
            )


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Raises ModelError unless the tokenizer works, and the model has an embedding for every id that the tokenizer or
    a configuration knows: a lookup beyond the embeddings ends a process on a GPU.

    transformers makes an empty tokenizer up where a folder has none.
    """
    ids = tokenizer("Question 1", add_special_tokens=False)["input_ids"]
    if not ids or not tokenizer.decode(list(ids), skip_special_tokens=True).strip():
        raise ModelError("model", name, "its tokenizer must be there and turn text into tokens and back")
    num_embeddings = model.get_input_embeddings().weight.shape[0]
    token, highest = max(tokenizer.get_vocab().items(), key=lambda one: one[1], default=("", -1))
    if (top := max(highest, *ids)) >= num_embeddings:
        which = f"token {top} ({token!r})" if top == highest else f"token {top}"
        expected = f"its tokenizer must fit: {which}, but the model has {num_embeddings} embeddings, 0 to"
        raise ModelError("model", name, f"{expected} {num_embeddings - 1}; resize them to the tokenizer")
    for field, top in _configured_ids(model):
        if top >= num_embeddings:
            expected = f"its {field} must be one of its {num_embeddings} embeddings, 0 to {num_embeddings - 1}; it is"
            raise ModelError("model", name, f"{expected} {top}")


def _configured_ids(model: PreTrainedModel) -> Iterator[tuple[str, int]]:
    """The special tokens of the configuration and of the generation configuration, with their fields."""
    for kind, config in (("", model.config), ("generation ", getattr(model, "generation_config", None))):
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
    configs = (model.config, getattr(model, "generation_config", None))
    return [one for config in configs for one in _token_ids(getattr(config, "eos_token_id", None))]


_NUM_TOKENS = 10
_SHIFT = 37
# Relative to the largest value: rounding of the dtype over a model's depth, far below what a wrong position does.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}


@torch.inference_mode()
def check_model(lm: LanguageModel) -> LanguageModel:
    """Test a freshly loaded model by a few forwards, whatever its architecture. Return it; one whose states continue
    only by one token after another is set to do so.

    Raises ModelError if its keys cannot be moved by RoPE, if a prompt fed in two parts gives another result than in
    one, or if the vocabulary projection of the last hidden state differs from the model's logits.
    """
    # From the whole vocabulary: the first ids are often control tokens. On a row of these, a trained model can amplify
    # the rounding of bfloat16 to a fifth of a key (SmolLM2-135M), where ordinary tokens give one percent.
    ids = torch.arange(1, _NUM_TOKENS + 1)[None] * lm.model.config.vocab_size // (_NUM_TOKENS + 1)
    whole, keys = _run_chunks(lm, ids, [_NUM_TOKENS], start=0)
    chunks, _ = _run_chunks(lm, ids, [_NUM_TOKENS - 3, 3], start=0)
    if lm.spec.has_states and not _error(whole, chunks) <= _TOLERANCE[lm.spec.dtype]:
        lm = replace(lm, continues_singly=True)
        chunks, _ = _run_chunks(lm, ids, [_NUM_TOKENS - 3, 3], start=0)
    moved, keys_moved = _run_chunks(lm, ids, [_NUM_TOKENS], start=_SHIFT)
    with lm.ranks.collective():
        logits = lm.model(ids.to(lm.device), use_cache=False).logits[0, -1].float()
    projected = lm.logits(whole[None])[0]
    with lm.ranks.all_or_none():  # each rank compares its own heads
        for key, key_moved, rope in zip(keys, keys_moved, _ropes(lm.spec), strict=True):
            if rope is not None:
                expected = rotate_keys(key, _SHIFT, rope)
                _check_close(lm, expected, key_moved, "its cached keys must be movable by RoPE")
        _check_close(lm, whole, moved, "only the distance between positions may matter to it")
        _check_close(lm, whole, chunks, "a prompt read in two chunks must be the prompt read in one")
        _check_close(lm, projected, logits, "its logits must be the projection of the last hidden state")
    return lm


def _ropes(spec: KVCacheSpec) -> list[RopeSpec | None]:
    """The RoPE of each tensor, in the order of the layout."""
    return [tensor.rope for layer in spec.layers for tensor in layer.slot_tensors]


def _run_chunks(lm: LanguageModel, ids_1T: Tensor, chunks: list[int], start: int) -> tuple[Tensor, list[Tensor]]:
    """The last hidden state of a prompt, and all tensors that have slots."""
    cache = BatchCache(lm.spec, lm.layer_devices, 1, _NUM_TOKENS)
    cache.open(1)
    hidden_TE = torch.empty(0)
    for chunk_T in ids_1T[0].split(chunks):
        positions_T = start + cache.lengths[0] + torch.arange(len(chunk_T), device=lm.device)
        cache.begin_step([len(chunk_T)])
        hidden_TE = lm.hidden_states(lm.embed(chunk_T), positions_T, cache)
        cache.end_step()
    kv = cache.copy_out([0], [_NUM_TOKENS])
    places = zip(kv.layout.tensors, kv.tensors_of(0), strict=True)
    return hidden_TE[-1], [tensor_HTD for place, tensor_HTD in places if place.spec.state_dims is None]


def _error(got: Tensor, expected: Tensor) -> float:
    return float((got.float().cpu() - expected.float().cpu()).abs().max() / expected.float().abs().max().cpu())


def _check_close(lm: LanguageModel, got: Tensor, expected: Tensor, rule: str) -> None:
    error = _error(got, expected)
    if not error <= _TOLERANCE[lm.spec.dtype]:
        raise ModelError("model", lm.name, f"{rule} (relative error {error:.2g})")
