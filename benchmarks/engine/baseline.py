"""The loop that one would write first, and that the published LatentMAS code runs: what the engine is measured against.

Plain transformers: left-padded batches, a `DynamicCache` that grows by concatenation, and the whole causal language
model (all hidden states, the vocabulary projection over every position) at each prompt and each latent step. Later
agents see earlier agents' padding, as they do there, so its answers to batches are wrong; its cost is the point.

Dimensions: B rows, T tokens, E hidden size.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from latentmas_ray.models import LanguageModel
from latentmas_ray.models.thoughts import ThoughtRule


class Baseline:
    """One chain of agents over one batch; the cache itself is what they hand over."""

    def __init__(self, lm: LanguageModel, rule: ThoughtRule, drain: Callable[[], None]) -> None:
        """`drain` waits until the device has finished what it was given."""
        self.lm, self.rule, self._drain = lm, rule, drain
        self.seconds = {"prefill": 0.0, "think": 0.0, "decode": 0.0}
        self._cache: Any = None  # transformers makes it at the first call
        self._num_cached = 0

    @torch.no_grad()
    def think(self, prompts: Sequence[Sequence[int]], num_steps: int) -> None:
        """A latent agent: read the prompts (token ids), then `num_steps` latent steps."""
        begin = time.perf_counter()
        last_BE = self._read(prompts).hidden_states[-1][:, -1]
        begin = self._lap("prefill", begin)
        for _ in range(num_steps):
            thought_BE = self.rule(last_BE).to(last_BE.dtype)
            output = self._forward(
                inputs_embeds=thought_BE[:, None],
                attention_mask=self._mask(torch.ones(len(prompts), 1, dtype=torch.long)),
                output_hidden_states=True,
            )
            last_BE = output.hidden_states[-1][:, -1]
        self._lap("think", begin)

    @torch.no_grad()
    def decode(self, prompts: Sequence[Sequence[int]], num_tokens: int) -> None:
        """The answering agent: read the prompts, then decode greedily; every row to the end."""
        begin = time.perf_counter()
        logits = self._read(prompts).logits
        begin = self._lap("prefill", begin)
        for _ in range(num_tokens - 1):
            ids_B1 = logits[:, -1].float().argmax(dim=-1, keepdim=True)
            logits = self._forward(input_ids=ids_B1, attention_mask=self._mask(torch.ones_like(ids_B1))).logits
        logits[:, -1].float().argmax(dim=-1).tolist()
        self._lap("decode", begin)

    def _read(self, prompts: Sequence[Sequence[int]]) -> Any:
        width = max(map(len, prompts))
        ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return self._forward(
            input_ids=torch.tensor(ids, device=self.lm.device),
            attention_mask=self._mask(torch.tensor(real)),
            output_hidden_states=True,
        )

    def _forward(self, **inputs: Any) -> Any:
        output = self.lm.model(**inputs, past_key_values=self._cache, use_cache=True)
        self._cache = output.past_key_values
        self._num_cached = inputs["attention_mask"].shape[1]
        return output

    def _mask(self, new_BT: torch.Tensor) -> torch.Tensor:
        """Everything that is cached, and `new_BT`."""
        cached = torch.ones(new_BT.shape[0], self._num_cached, dtype=torch.long)
        return torch.cat([cached, new_BT.cpu()], dim=1).to(self.lm.device)

    def _lap(self, phase: str, begin: float) -> float:
        self._drain()
        now = time.perf_counter()
        self.seconds[phase] += now - begin
        return now
