"""What our own engine knows and computes of a model: vLLM's copy is compared with it.

The model is loaded once more, on the CPU, and dropped again, before vLLM starts.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens, D head dim, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.errors import IncompatibleMemoryError, ModelError
from latentmas_ray.memory import KVCacheSpec, TPRank
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.models.chat import ChatTokenizer
from latentmas_ray.models.load import load_model
from latentmas_ray.writing.text_engine import MemoryPart, QuestionMemory

_NUM_MEMORY_TOKENS = 24
_NUM_PROMPT_TOKENS = 6
_START = 37  # where the probe's memory was computed
_HOLE = 5  # positions of its agents that hand over nothing


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A memory, a prompt, and the logits of the first token after them."""

    memory: QuestionMemory
    memory_ids: tuple[int, ...]  # the tokens that the memory was computed from
    prompt_ids: tuple[int, ...]
    logits_V: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The facts of a model, or of its shard, as our own engine reads it."""

    spec: KVCacheSpec
    chat: ChatTokenizer
    max_positions: int | None
    probe: Probe


def make_reference(model: str, *, dtype: str, revision: str | None, shard: TPRank | None = None) -> Reference:
    """Load the model and check that it can collaborate; `shard` is the part that vLLM holds here, None: all.

    Raises ModelError, and IncompatibleMemoryError if its KV heads cannot be divided.
    """
    lm = load_model(model, dtype=dtype, device="cpu", revision=revision)
    try:
        lm.spec.require_uniform()
    except IncompatibleMemoryError as error:
        expected = f"vLLM takes memory as a key and a value of one shape; {error}: use engine transformers"
        raise ModelError("model", model, expected) from error
    spec = lm.spec.of_shard(shard or WHOLE)
    return Reference(spec=spec, chat=lm.chat, max_positions=lm.max_positions, probe=_make_probe(lm, spec))


@torch.inference_mode()
def _make_probe(lm: LanguageModel, spec: KVCacheSpec) -> Probe:
    """Compute a memory that lies elsewhere and has a hole after it: vLLM must rotate its keys by two distances."""
    num_tokens = _NUM_MEMORY_TOKENS + _NUM_PROMPT_TOKENS
    ids_T = (7 * torch.arange(num_tokens) + 3) % lm.num_embeddings
    cache = BatchCache(lm.spec, lm.layer_devices, 1, num_tokens)
    cache.open(1)
    hidden_TE = torch.empty(0)
    for part_T in ids_T.split(_NUM_MEMORY_TOKENS):
        first = _START + cache.lengths[0]
        cache.begin_step([len(part_T)], [first])
        positions_T = first + torch.arange(len(part_T))
        hidden_TE = lm.hidden_states(lm.embed(part_T), positions_T, cache)
        cache.end_step()
    first_head = spec.shard.rank * spec.num_kv_heads
    kv_LCHTD = cache.copy_out([0], [_NUM_MEMORY_TOKENS]).tensor()
    kv_LCHTD = kv_LCHTD[:, :, first_head : first_head + spec.num_kv_heads]
    half = _NUM_MEMORY_TOKENS // 2
    memory = QuestionMemory(
        parts=tuple(
            MemoryPart(kv_LCHTD=part_LCHTD, first_slot=first_slot, shift=_HOLE - _START)
            for first_slot, part_LCHTD in ((0, kv_LCHTD[:, :, :, :half]), (half, kv_LCHTD[:, :, :, half:]))
        ),
        num_tokens=_NUM_MEMORY_TOKENS,
        next_position=_NUM_MEMORY_TOKENS + _HOLE,
    )
    ids = tuple(ids_T.tolist())
    return Probe(
        memory=memory,
        memory_ids=ids[:_NUM_MEMORY_TOKENS],
        prompt_ids=ids[_NUM_MEMORY_TOKENS:],
        logits_V=lm.logits(hidden_TE[-1:])[0],
    )
