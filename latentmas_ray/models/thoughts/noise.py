"""Random thoughts, as a control: what do thoughts carry beyond their number and their length?

Dimensions: N thoughts, E hidden size.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latentmas_ray.models.thoughts.base import ThoughtKey, ThoughtRule


class NoiseRule(ThoughtRule):
    """h → a vector of independent standard normal numbers, which does not depend on h: rescaled, a direction that is
    uniform over the sphere.

    The random stream of a thought depends on (seed, question, agent, step) only, so batch size, order, replica, rank
    and number format do not change it.
    """

    rescales = True

    def __init__(self, target_norm: float, *, seed: int) -> None:
        self.target_norm, self._seed = target_norm, seed

    def map(self, hidden_NE: Tensor, keys_N: Sequence[ThoughtKey] = ()) -> Tensor:
        size = hidden_NE.shape[-1]
        assert hidden_NE.numel() == len(keys_N) * size, "each random thought needs its key"
        rows = [self._draw(key, size) for key in keys_N]
        vectors_NE = torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, size)
        return vectors_NE.to(hidden_NE.device, torch.float32).view(hidden_NE.shape)

    def _draw(self, key: ThoughtKey, size: int) -> np.ndarray:
        counter = "\x1f".join((str(self._seed), key.question_id, key.agent, str(key.step)))
        digest = hashlib.blake2b(counter.encode(), digest_size=16, person=b"latentmas-noise").digest()
        drawn: np.ndarray = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little"))).standard_normal(size)
        return drawn
