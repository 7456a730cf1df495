"""The project's sampling inside vLLM: the same seed draws the same tokens as on our own engine, whatever the batch.

vLLM's own sampler uses another stream of random numbers. So requests are greedy for vLLM, and this logits processor
leaves only the token that `models.sampling` draws.

Dimensions: B rows, V vocabulary.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.interface import MoveDirectionality

from latentmas_ray.engine.turn import Sampling
from latentmas_ray.models.sampling import sample, uniform

STREAM_KEY = "latentmas_stream"  # in `extra_args` of the sampling parameters: a RandomStream
PATH = f"{__name__}:CounterSampler"


@dataclass(frozen=True, kw_only=True)
class RandomStream:
    """The random numbers of one question of one agent, and the distribution that they are drawn from."""

    question_id: str
    agent: str
    sampling: Sampling

    def number(self, step: int) -> float:
        """The random number of its token `step`."""
        return uniform(self.sampling.seed, self.question_id, self.agent, step)


class CounterSampler(LogitsProcessor):  # type: ignore[misc]  # vLLM's classes are untyped here
    """Leaves one token in the logits of every row that has a `RandomStream`."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._rows: dict[int, tuple[RandomStream, Sequence[int]]] = {}  # with the tokens that were written

    def is_argmax_invariant(self) -> bool:
        """It changes the most probable token."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the rows of the batch. vLLM gives a list that grows with the row's tokens."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, _, output_ids in batch_update.added:
            self._rows.pop(row, None)
            if (stream := (params.extra_args or {}).get(STREAM_KEY)) is not None:
                self._rows[row] = stream, output_ids
        for first, second, direction in batch_update.moved:
            moved, other = self._rows.pop(first, None), self._rows.pop(second, None)
            if moved is not None:
                self._rows[second] = moved
            if other is not None and direction == MoveDirectionality.SWAP:
                self._rows[first] = other

    def apply(self, logits: Tensor) -> Tensor:
        """Draw the tokens of all rows with the same distribution together; changes `logits` [B, V] in place."""
        alike: defaultdict[tuple[float, float], list[int]] = defaultdict(list)
        for row, (stream, _) in self._rows.items():
            alike[stream.sampling.temperature, stream.sampling.top_p].append(row)
        for (temperature, top_p), rows in alike.items():
            numbers = [stream.number(len(output_ids)) for stream, output_ids in (self._rows[row] for row in rows)]
            uniforms_B = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
            rows_B = torch.tensor(rows, device=logits.device)
            drawn_B = sample(logits[rows_B].float(), uniforms_B, temperature, top_p)
            logits[rows_B] = -torch.inf
            logits[rows_B, drawn_B] = 0.0
        return logits
