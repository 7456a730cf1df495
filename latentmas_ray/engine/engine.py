"""One model in one process, and the cache it works in. No Ray."""

from collections.abc import Sequence
from pathlib import Path

import torch

from latentmas_ray.engine.session import Session
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.models.realign import Realignment, load_or_solve, mean_norm

_SLOT_STEP = 256  # caches are reserved in steps of this many slots, so that batches of like size reuse one


class Engine:
    """Runs turns on one loaded model, one after another; keeps the cache's memory between turns."""

    def __init__(self, lm: LanguageModel, *, realign: bool = True, cache_dir: Path) -> None:
        """Prepare realignment: W_a is read from `cache_dir` or solved and kept there; W_a = I without `realign`."""
        self.lm = lm
        self._cache: BatchCache | None = None
        self._realign = make_realignment(lm, realign=realign, cache_dir=cache_dir)

    def open(self, question_ids: Sequence[str], *, num_slots: int) -> Session:
        """Begin a turn over these questions; no row may need more than `num_slots` tokens, memory included."""
        cache = self._cache
        if cache is None or cache.num_rows < len(question_ids) or cache.num_slots < num_slots:
            self._cache = cache = None  # free the old one first: both together may not fit
            cache = BatchCache(
                self.lm.spec, self.lm.layer_devices, len(question_ids), -(-num_slots // _SLOT_STEP) * _SLOT_STEP
            )
            self._cache = cache
        cache.open(len(question_ids))
        return Session(self.lm, cache, self._realign, question_ids)


@torch.inference_mode()
def make_realignment(lm: LanguageModel, *, realign: bool, cache_dir: Path) -> Realignment:
    """The realignment of a model. With tied embeddings W_a is the identity but for the ridge, and is left out."""
    inputs_VE = lm.input_embeddings()
    norm = mean_norm(inputs_VE)
    if not realign or lm.is_tied:
        return Realignment(None, norm)
    outputs_VE = lm.output_embeddings()
    num_rows = min(len(inputs_VE), len(outputs_VE))
    matrix = load_or_solve(outputs_VE[:num_rows], inputs_VE[:num_rows], cache_dir, lm.spec.weights_revision)
    return Realignment(matrix.to(lm.device), norm)
