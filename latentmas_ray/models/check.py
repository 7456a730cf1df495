"""A look at a freshly loaded model: does it behave as latent collaboration needs? Asked of the numbers, not of names,
so any architecture that passes may be used."""

import torch
from torch import Tensor

from latentmas_ray.errors import ModelError
from latentmas_ray.memory import rotate_keys
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.models.language_model import LanguageModel

_NUM_TOKENS = 10
_SHIFT = 37
# Relative to the largest value: rounding of the dtype over a model's depth, far below what a wrong position does.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}


@torch.inference_mode()
def check_model(lm: LanguageModel) -> None:
    """Raises ModelError if keys cannot be moved by RoPE, if a prompt in two pieces is not the prompt in one, or if
    the vocabulary projection of the last hidden state is not what the model itself answers."""
    ids = torch.arange(1, _NUM_TOKENS + 1)[None] % lm.model.config.vocab_size
    whole, keys = _forward(lm, ids, [_NUM_TOKENS], start=0)
    pieces, _ = _forward(lm, ids, [_NUM_TOKENS - 3, 3], start=0)
    moved, keys_moved = _forward(lm, ids, [_NUM_TOKENS], start=_SHIFT)
    with lm.ranks.collective():
        logits = lm.model(ids.to(lm.device), use_cache=False).logits[0, -1].float()
    projected = lm.logits(whole[None])[0]
    with lm.ranks.all_or_none():  # a rank sees its own heads only
        _require(lm, rotate_keys(keys, _SHIFT, lm.spec.rope), keys_moved, "its cached keys must be movable by RoPE")
        _require(lm, whole, moved, "only the distance between positions may matter to it")
        _require(lm, whole, pieces, "a prompt read in two pieces must be the prompt read in one")
        _require(lm, projected, logits, "its logits must be the projection of the last hidden state")


def _forward(lm: LanguageModel, ids_1T: Tensor, pieces: list[int], start: int) -> tuple[Tensor, Tensor]:
    cache = BatchCache(lm.spec, lm.layer_devices, 1, _NUM_TOKENS)
    cache.open(1)
    hidden_TE = torch.empty(0)
    for piece_T in ids_1T[0].split(pieces):
        positions_T = start + cache.lengths[0] + torch.arange(len(piece_T), device=lm.device)
        cache.begin_step([len(piece_T)])
        hidden_TE = lm.hidden_states(lm.embed(piece_T), positions_T, cache)
        cache.end_step()
    return hidden_TE[-1], cache.copy_out([0], [_NUM_TOKENS])[:, 0]


def _require(lm: LanguageModel, got: Tensor, expected: Tensor, rule: str) -> None:
    error = float((got.float().cpu() - expected.float().cpu()).abs().max() / expected.float().abs().max().cpu())
    if not error <= _TOLERANCE[lm.spec.dtype]:
        raise ModelError("model", lm.name, f"{rule} (relative error {error:.2g})")
