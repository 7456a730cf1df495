"""The same computations by transformers alone: one question, a growing cache, no masks, no padding."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers import DynamicCache

from latentmas_ray.memory import LATENT, RecomputeInputs
from latentmas_ray.models import LanguageModel
from latentmas_ray.models.thoughts import ThoughtRule


class Plain:
    """One question's sequence. `hidden_E` and `logits_V` are those of the last input."""

    def __init__(self, lm: LanguageModel, rule: ThoughtRule) -> None:
        self.lm, self.rule = lm, rule
        self.cache = DynamicCache()
        self.hidden_E, self.logits_V = torch.empty(0), torch.empty(0)

    @torch.inference_mode()
    def feed(self, token_ids: Sequence[int]) -> "Plain":
        """One forward over these tokens, by their ids."""
        return self._take(self.lm.model(torch.tensor([list(token_ids)]), **self._arguments))

    @torch.inference_mode()
    def feed_embedding(self, embedding_E: Tensor) -> "Plain":
        """One forward over one input embedding."""
        return self._take(self.lm.model(inputs_embeds=embedding_E[None, None], **self._arguments))

    def think(self, num_steps: int) -> "Plain":
        """Latent steps as the formula says."""
        for _ in range(num_steps):
            thought_E = self.rule(self.hidden_E[None])[0].to(self.lm.spec.torch_dtype)
            self.feed_embedding(thought_E)
        return self

    def recompute(self, recompute_inputs: RecomputeInputs) -> "Plain":
        """A predecessor's inputs: tokens by their ids, thoughts as they were fed."""
        latents = iter(recompute_inputs.latents_NE)
        for is_latent, run in groupby(recompute_inputs.token_ids_T.tolist(), key=lambda token: token == LATENT):
            if is_latent:
                for _ in run:
                    self.feed_embedding(next(latents))
            else:
                self.feed(list(run))
        return self

    def decode(self, num_tokens: int) -> list[int]:
        """Greedy tokens, until an end token."""
        output: list[int] = []
        while len(output) < num_tokens:
            token = int(self.logits_V.argmax())
            if token in self.lm.chat.stop_ids:
                break
            output.append(token)
            self.feed([token])
        return output

    def kv(self) -> Tensor:
        """[L, 2, H, T, D]"""
        return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in self.cache.layers])

    @property
    def _arguments(self) -> dict[str, object]:
        return {"past_key_values": self.cache, "use_cache": True, "output_hidden_states": True}

    def _take(self, output: object) -> "Plain":
        self.hidden_E = output.hidden_states[-1][0, -1]
        self.logits_V = output.logits[0, -1].float()
        return self
