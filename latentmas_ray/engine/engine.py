"""`Engine`: one model in one process with its KV cache. No Ray."""

from collections.abc import Sequence
from pathlib import Path

from latentmas_ray.engine.lazy_segment import holds_exactly
from latentmas_ray.engine.session import Session
from latentmas_ray.memory import MergedLayout
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.models.thoughts import make_rule

_SLOT_STEP = 256  # caches grow in steps of this many slots, so that batches of similar size reuse one
_KEPT_BYTES_CPU = 2**30  # on a CPU a larger cache is freed after its turn, for other agents on the machine
_SLOT_STEP_CPU = 1024  # on a CPU a slot costs nothing until it is written; larger steps avoid moving rows


class Engine:
    """Runs turns on one loaded model, one after another; keeps the cache's memory between turns."""

    def __init__(self, lm: LanguageModel, *, thoughts: str = "realign", cache_dir: Path) -> None:
        """Prepare the thought rule: a matrix is read from `cache_dir`, or solved and stored there."""
        self.lm = lm
        self._cache: BatchCache | None = None
        self.rule = make_rule(lm, thoughts, cache_dir=cache_dir)

    def open(
        self, question_ids: Sequence[str], *, num_slots: int, reads: MergedLayout | None = None, agent: str = ""
    ) -> Session:
        """Start a turn of `agent` over these questions; a row may hold at most `num_slots` tokens, memory included.

        `reads` is what the session will absorb, if it is known: if the cache still holds exactly that memory from the
        previous turn, it is used in place instead of being copied.
        """
        cache = self._cache
        step = _SLOT_STEP_CPU if self.lm.device.type == "cpu" else _SLOT_STEP
        num_slots = -(-num_slots // step) * step
        if cache is not None and reads is not None and holds_exactly(cache, reads):
            cache.reserve(num_slots)
            return Session(self.lm, cache, self.rule, question_ids, agent=agent, holds_memory=True)
        if cache is None or cache.num_rows < len(question_ids) or cache.num_slots < num_slots:
            if cache is not None:
                cache.detach_all()
            self._cache = cache = None  # free the old one first: both together may not fit
            self._cache = cache = BatchCache(self.lm.spec, self.lm.layer_devices, len(question_ids), num_slots)
        cache.open(len(question_ids))
        return Session(self.lm, cache, self.rule, question_ids, agent=agent)

    def trim_cache(self) -> None:
        """Free a large CPU cache after a turn, unless a segment still refers to it: the next turn may come late."""
        cache = self._cache
        if cache is None or self.lm.device.type != "cpu" or cache.num_touched_bytes <= _KEPT_BYTES_CPU:
            return
        if not cache.has_views:
            self._cache = None
