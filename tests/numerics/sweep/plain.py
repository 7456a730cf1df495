"""What transformers alone computes for one question: the attention that it chooses for the family, a growing cache of
its own, no masks, no padding."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from latentmas_ray.memory import LATENT, RecomputeInputs

Rule = Callable[[Tensor], Tensor]


class PlainSequence:
    """One question's sequence. `hidden_E` and `logits_V` are those of the last input.

    With `singly` a sequence is continued by one token after another, where transformers would forget a state otherwise.
    """

    def __init__(self, model: PreTrainedModel, rule: Rule, *, singly: bool = False) -> None:
        self._model, self._rule, self._cache, self._singly = model, rule, None, singly
        self.hidden_E, self.logits_V = torch.empty(0), torch.empty(0)

    @torch.inference_mode()
    def feed(self, token_ids: Sequence[int]) -> "PlainSequence":
        parts = [[token] for token in token_ids] if self._singly and self._cache is not None else [list(token_ids)]
        for part in parts:
            self._take(input_ids=torch.tensor([part]))
        return self

    @torch.inference_mode()
    def feed_thought(self, embedding_E: Tensor) -> "PlainSequence":
        return self._take(inputs_embeds=embedding_E[None, None])

    def think(self, num_steps: int) -> "PlainSequence":
        for _ in range(num_steps):
            self.feed_thought(self._rule(self.hidden_E[None])[0])
        return self

    def recompute(self, inputs: RecomputeInputs) -> "PlainSequence":
        """A predecessor's inputs: tokens by their ids, thoughts as they were fed."""
        thoughts = iter(inputs.latents_NE)
        for is_thought, run in groupby(inputs.token_ids_T.tolist(), key=lambda token: token == LATENT):
            if is_thought:
                for _ in run:
                    self.feed_thought(next(thoughts))
            else:
                self.feed(list(run))
        return self

    def _take(self, **inputs: Any) -> "PlainSequence":
        output = self._model(**inputs, past_key_values=self._cache, use_cache=True, output_hidden_states=True)
        self._cache = output.past_key_values
        self.hidden_E = output.hidden_states[-1][0, -1]
        self.logits_V = output.logits[0, -1].float()
        return self
