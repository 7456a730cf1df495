"""The test forwards of a freshly loaded model.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens, D head dim, E hidden size, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache

from latentmas_ray.errors import ModelError
from latentmas_ray.memory import LayerSpec, RopeSpec
from latentmas_ray.memory.layer_spec import interned
from latentmas_ray.models.attention import NAME, NotedCache, Recorder, recording
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.models.kv_spec import text_config
from latentmas_ray.models.language_model import LanguageModel
from latentmas_ray.models.probe.logits import find_factor, numbers_of
from latentmas_ray.models.probe.rotation import candidates, choose, errors_of
from latentmas_ray.models.probe.windows import find_windows

_NUM_TOKENS = 10
_SHIFT = 37
# Relative to the largest value: rounding of the dtype over a model's depth, far below what a wrong position does.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}


@torch.inference_mode()
def probe(lm: LanguageModel) -> LanguageModel:
    """Return the model with the window and the positions of each layer in its spec; one whose states continue only by
    one token after another, or that does not scale its logits, is set to do so. Sets the engine's attention.

    Raises ModelError if the engine would compute something else than the family's own attention, if its keys cannot be
    moved, if a prompt fed in two parts gives another result than in one, if a question would get something else for
    its neighbour in a batch, or if the vocabulary projection of the last hidden state differs from the model's logits.
    """
    # From the whole vocabulary: the first ids are often control tokens. On a row of these, a trained model can amplify
    # the rounding of bfloat16 to a fifth of a key (SmolLM2-135M), where ordinary tokens give one percent.
    vocab_size = text_config(lm.model.config).vocab_size
    ids = torch.arange(1, _NUM_TOKENS + 1)[None] * vocab_size // (_NUM_TOKENS + 1)
    own_V = _own_logits(lm, ids)
    lm.model.set_attn_implementation(NAME)
    recorder, logits_V, hidden_E = _record(lm, ids)
    windows = find_windows(recorder, [bool(layer.slot_tensors) for layer in lm.spec.layers], lm.max_positions, lm.name)
    _check_own_cache(lm, windows)
    lm = _with_layers(_scaled_embeddings(lm, ids, hidden_E), {}, windows)
    whole_E, keys = _run_chunks(lm, ids, [_NUM_TOKENS], start=0)
    chunks_E, _ = _run_chunks(lm, ids, [_NUM_TOKENS - 3, 3], start=0)
    if lm.spec.has_states and not _error(chunks_E, whole_E) <= _TOLERANCE[lm.spec.dtype]:
        lm = replace(lm, continues_singly=True)
        chunks_E, _ = _run_chunks(lm, ids, [_NUM_TOKENS - 3, 3], start=0)
    moved_E, moved = _run_chunks(lm, ids, [_NUM_TOKENS], start=_SHIFT)
    together_E = _run_together(lm, ids)
    ropes = candidates(lm.decoder, lm.model.config, lm.name)
    errors = torch.stack([errors_of(keys[layer], moved[layer], _SHIFT, ropes) for layer in keys])
    # All ranks must choose the same for their heads.
    errors = (lm.ranks.sum(errors.flatten()) / lm.ranks.shard.world_size).view(errors.shape)
    lm, projected_V = _project(lm, hidden_E, logits_V)
    with lm.ranks.all_or_none():  # each rank compares its own heads
        chosen = choose(errors, list(keys), ropes, _TOLERANCE[lm.spec.dtype], lm.name)
        _check_close(lm, moved_E, whole_E, "only the distance between positions may matter to it")
        _check_close(lm, chunks_E, whole_E, "a prompt read in two chunks must be the prompt read in one")
        _check_close(lm, together_E, whole_E, "a prompt in a batch must be the prompt alone")
        _check_close(lm, projected_V, logits_V, _logits_rule(logits_V))
        known = f"its attention must have no part that this package does not know{_given(recorder)}"
        _check_close(lm, logits_V, own_V, known)
        _check_close(lm, whole_E, hidden_E, f"{known}: over a cache it computes something else than without")
    return _with_layers(lm, chosen, windows)


def _scaled_embeddings(lm: LanguageModel, ids_1T: Tensor, hidden_E: Tensor) -> LanguageModel:
    """The model whose embeddings give the hidden state that its token ids give: some scale those of ids alone, by a
    number of their configuration (Falcon-H1)."""

    def error_of(one: LanguageModel) -> float:
        with lm.ranks.collective():
            output = lm.decoder(inputs_embeds=one.embed(ids_1T), use_cache=False)
        return _error(output.last_hidden_state[0, -1], hidden_E)

    if error_of(lm) <= _TOLERANCE[lm.spec.dtype]:
        return lm
    factors = {number for number in numbers_of(lm.model.config) if number != 1.0}
    scaled = [replace(lm, embed_factor=factor) for factor in sorted(factors)]
    errors = [error_of(one) for one in scaled]
    best = min(range(len(errors)), key=errors.__getitem__, default=None)
    return lm if best is None or not errors[best] <= _TOLERANCE[lm.spec.dtype] else scaled[best]


def _project(lm: LanguageModel, hidden_E: Tensor, logits_V: Tensor) -> tuple[LanguageModel, Tensor]:
    """The projection of a hidden state whose logits are known, by a model that scales and caps it as is nearest."""
    plain_V = lm.logits(hidden_E[None])[0].to(logits_V.device)
    cap = getattr(text_config(lm.model.config), "final_logit_softcapping", None)
    factors = [(find_factor(plain_V, logits_V, one, lm.model.config), one) for one in {None, cap or None}]
    choices = [replace(lm, logit_factor=factor, logit_cap=one) for factor, one in factors]
    found = [(one, one.logits(hidden_E[None])[0]) for one in choices]
    return min(found, key=lambda choice: _error(choice[1], logits_V))


def _logits_rule(logits_V: Tensor) -> str:
    rule = "its logits must be the projection of the last hidden state by one matrix, scaled or capped"
    num_hidden = int((logits_V <= torch.finfo(logits_V.dtype).min / 2).sum())
    return f"{rule}; it hides those of {num_hidden} tokens" if num_hidden else rule


def _given(recorder: Recorder) -> str:
    return f"; it is given {', '.join(sorted(recorder.extras))}" if recorder.extras else ""


def _own_logits(lm: LanguageModel, ids_1T: Tensor) -> Tensor:
    """The last token's logits by the family's own attention, which is written out where `eager` is asked for."""
    lm.model.set_attn_implementation("eager")
    with lm.ranks.collective():
        logits_V: Tensor = lm.model(ids_1T.to(lm.device), use_cache=False).logits[0, -1].float()
    return logits_V


def _record(lm: LanguageModel, ids_1T: Tensor) -> tuple[Recorder, Tensor, Tensor]:
    """The masks of a forward over a prompt, and its last token's logits [V] and hidden state [E] without a cache."""
    with lm.ranks.collective(), recording(Recorder()) as recorder:
        noted = NotedCache(text_config(lm.model.config), recorder)
        output = lm.model(ids_1T.to(lm.device), use_cache=True, past_key_values=noted)
    with lm.ranks.collective(), recording(Recorder()) as alone:
        hidden_E = lm.decoder(input_ids=ids_1T.to(lm.device), use_cache=False).last_hidden_state[0, -1]
    recorder.two_sided |= alone.two_sided
    return recorder, output.logits[0, -1].float(), hidden_E


def _check_own_cache(lm: LanguageModel, windows: Sequence[int | None]) -> None:
    """Raises ModelError for a model whose own cache drops keys that its masks show: it computes something else when it
    writes than when it reads."""
    own = DynamicCache(config=text_config(lm.model.config)).layers
    for number, (layer, window) in enumerate(zip(own, windows, strict=False)):
        kept = getattr(layer, "sliding_window", None)
        if window is None and kept is not None and (lm.max_positions is None or kept < lm.max_positions):
            expected = f"what its layers see must not depend on how it is read; the cache of layer {number} keeps"
            raise ModelError("model", lm.name, f"{expected} {kept} tokens, and its mask shows all")


def _with_layers(
    lm: LanguageModel, ropes: Mapping[int, RopeSpec | None], windows: Sequence[int | None]
) -> LanguageModel:
    """The model whose spec has these rotations, by layer, and windows."""
    layers = []
    for number, (layer, window) in enumerate(zip(lm.spec.layers, windows, strict=True)):
        tensors = [replace(one, rope=ropes.get(number)) if one.is_key else one for one in layer.tensors]
        layers.append(interned(LayerSpec(tuple(tensors), window)))
    return replace(lm, spec=replace(lm.spec, layers=tuple(layers)))


def _run_chunks(lm: LanguageModel, ids_1T: Tensor, chunks: list[int], start: int) -> tuple[Tensor, dict[int, Tensor]]:
    """The last hidden state [E] of a prompt in these chunks at positions from `start` on, and the keys [H, T, D] of
    each layer that has some."""
    cache = BatchCache(lm.spec, lm.layer_devices, 1, _NUM_TOKENS)
    cache.open(1)
    hidden_TE = torch.empty(0)
    for chunk_T in ids_1T[0].split(chunks):
        first = start + cache.lengths[0]
        cache.begin_step([len(chunk_T)], [first])
        positions_T = first + torch.arange(len(chunk_T), device=lm.device)
        hidden_TE = lm.hidden_states(lm.embed(chunk_T), positions_T, cache)
        cache.end_step()
    kv = cache.copy_out([0], [_NUM_TOKENS])
    specs = [(number, tensor) for number, layer in enumerate(lm.spec.layers) for tensor in layer.tensors]
    places = zip(specs, kv.tensors_of(0), strict=True)
    return hidden_TE[-1], {number: own_HTD for (number, tensor), own_HTD in places if tensor.is_key}


def _run_together(lm: LanguageModel, ids_1T: Tensor) -> Tensor:
    """The last hidden state [E] of a prompt next to another, shorter one: what it computes must not see its neighbour,
    in attention, in the routing to experts or in a state."""
    other_T = ids_1T[0].flip(0)[: _NUM_TOKENS // 2]
    cache = BatchCache(lm.spec, lm.layer_devices, 2, _NUM_TOKENS)
    cache.open(2)
    counts = [len(other_T), _NUM_TOKENS]
    cache.begin_step(counts, [0, 0])
    positions_N = torch.cat([torch.arange(count, device=lm.device) for count in counts])
    return lm.hidden_states(lm.embed(torch.cat([other_T, ids_1T[0]])), positions_N, cache)[-1]


def _error(got: Tensor, expected: Tensor) -> float:
    return float((got.float().cpu() - expected.float().cpu()).abs().max() / expected.float().abs().max().cpu())


def _check_close(lm: LanguageModel, got: Tensor, expected: Tensor, rule: str) -> None:
    error = _error(got, expected)
    if not error <= _TOLERANCE[lm.spec.dtype]:
        raise ModelError("model", lm.name, f"{rule} (relative error {error:.2g})")
