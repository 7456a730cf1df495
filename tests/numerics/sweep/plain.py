"""What transformers alone computes for one question: the attention that it chooses for the family, no masks, no
padding, and a growing cache of its own."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from latentmas_ray.memory import LATENT, RecomputeInputs

Rule = Callable[[Tensor], Tensor]


class PlainSequence:
    """One question's sequence. `hidden_E` and `logits_V` are those of the last input.

    Without `keeps_cache` every forward is over the whole sequence: with states, a family's own cache may forget them
    where several tokens follow (Jamba), or count positions wrongly (Bamba).
    """

    def __init__(
        self, model: PreTrainedModel, rule: Rule, *, keeps_cache: bool = True, embed_factor: float = 1.0
    ) -> None:
        """`embed_factor` is what the model multiplies the embeddings of ids with."""
        self._model, self._rule, self._keeps_cache, self._factor = model, rule, keeps_cache, embed_factor
        self._ids: list[int] | None = []  # None after a thought
        self._cache: Any = None
        self._fed: list[Tensor] = []  # input embeddings [T, E]
        self.hidden_E, self.logits_V = torch.empty(0), torch.empty(0)

    @torch.inference_mode()
    def feed(self, token_ids: Sequence[int]) -> "PlainSequence":
        ids_1T = torch.tensor([list(token_ids)])
        if self._keeps_cache:
            return self._take(input_ids=ids_1T)
        self._fed.append(self._model.get_input_embeddings()(ids_1T)[0] * self._factor)
        if self._ids is not None:
            self._ids += token_ids
            return self._take(input_ids=torch.tensor([self._ids]))
        return self._take(inputs_embeds=torch.cat(self._fed)[None])

    @torch.inference_mode()
    def feed_thought(self, embedding_E: Tensor) -> "PlainSequence":
        self._fed.append(embedding_E[None])
        self._ids = None
        embeds_TE = self._fed[-1] if self._keeps_cache else torch.cat(self._fed)
        return self._take(inputs_embeds=embeds_TE[None])

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
        kept = {"past_key_values": self._cache, "use_cache": True} if self._keeps_cache else {"use_cache": False}
        output = self._model(**inputs, **kept, output_hidden_states=True)
        self._cache = getattr(output, "past_key_values", None)
        if self._keeps_cache and self._cache is None:  # a family that makes none itself
            self._cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
            return self._take(**inputs)
        self.hidden_E = output.hidden_states[-1][0, -1]
        self.logits_V = output.logits[0, -1].float()
        return self
