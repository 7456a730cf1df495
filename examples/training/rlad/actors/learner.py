"""The learner of one policy: supervised steps, and steps of the policy gradient. A plain class; a Ray actor is one.

Dimensions: B texts of a batch, L tokens of the longest, T drawn tokens of all texts, V vocabulary.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.tiny_model.optimizing import MasterWeights
from examples.training.rlad.losses import GradientSettings, entropy_of, policy_loss
from examples.training.rlad.policy import SHAPES, make_tokenizer

_PAD = 0
_EMBED_RATE = 4e-3  # embeddings begin small here
_CHUNK = 128  # texts whose likelihoods are computed together, without gradients


@dataclass(frozen=True)
class PolicyText:
    """A text that a policy wrote or should write: its prompt, and its own tokens with the one that ends it."""

    prompt: Sequence[int]
    output: Sequence[int]
    advantage: float = 0.0


@dataclass(frozen=True)
class _PolicyBatch:
    """Texts side by side, padded behind their ends, which no earlier token sees."""

    ids_BL: Tensor
    is_drawn_BL: Tensor  # whether the token after this one was drawn
    targets_T: Tensor
    advantages_T: Tensor

    @classmethod
    def of(cls, texts: Sequence[PolicyText]) -> "_PolicyBatch":
        longest = max(len(text.prompt) + len(text.output) for text in texts)
        ids_BL = torch.full((len(texts), longest), _PAD)
        is_drawn_BL = torch.zeros(len(texts), longest, dtype=torch.bool)
        for row, text in enumerate(texts):
            begin, end = len(text.prompt), len(text.prompt) + len(text.output)
            ids_BL[row, :end] = torch.tensor([*text.prompt, *text.output])
            is_drawn_BL[row, begin - 1 : end - 1] = True
        targets_BL = ids_BL.roll(-1, 1)
        advantages_B1 = torch.tensor([[text.advantage] for text in texts])
        advantages_T = advantages_B1.expand_as(ids_BL)[is_drawn_BL]
        return cls(ids_BL, is_drawn_BL, targets_BL[is_drawn_BL], advantages_T)


class Learner:
    """Trains one policy. Every step is the same for the same weights, texts and seed, so a resumed training continues
    as if it had not been interrupted."""

    def __init__(self, role: str, seed: int, weights: Mapping[str, Tensor] | None = None) -> None:
        """Without `weights` the policy begins at random ones of this seed."""
        torch.set_num_threads(1)
        tokenizer = make_tokenizer()
        self._model: Any = SHAPES[role].first_model(tokenizer, seed)
        self._reference: Any = SHAPES[role].first_model(tokenizer, seed)
        if weights is not None:
            self._model.load_state_dict(dict(weights))
            self._reference.load_state_dict(dict(weights))
        self._reference.requires_grad_(False)
        self._optimizers = MasterWeights(self._model, dtype=torch.float32, embed_rate=_EMBED_RATE)

    def fit(self, texts: Sequence[PolicyText], rate: float) -> dict[str, float]:
        """Take a supervised step on the texts' outputs, with `rate` times the usual learning rates. Return the loss per
        token and the share of texts whose tokens are all the likeliest ones."""
        batch = _PolicyBatch.of(texts)
        logits_TV = self._logits(self._model, batch)
        loss = cross_entropy(logits_TV, batch.targets_T)
        loss.backward()
        self._optimizers.step(rate)
        is_right_BL = torch.ones_like(batch.is_drawn_BL)
        is_right_BL[batch.is_drawn_BL] = logits_TV.argmax(-1) == batch.targets_T
        return {"loss": loss.item(), "right": float(is_right_BL.all(1).float().mean())}

    def improve(
        self, texts: Sequence[PolicyText], settings: GradientSettings, *, num_batches: int, seed: int
    ) -> dict[str, float]:
        """Take `num_batches` steps of the policy gradient, each on a part of the texts, which the policy has just
        drawn. Return the means of the steps' figures. The reference are the weights that the learner began with."""
        order = Random(seed).sample(range(len(texts)), len(texts))
        parts = [[texts[index] for index in order[first::num_batches]] for first in range(num_batches)]
        batches = [_PolicyBatch.of(part) for part in parts if part]
        olds = [self._log_p(self._model, part) for part in parts if part]
        references = [self._log_p(self._reference, part) for part in parts if part]
        found: list[dict[str, float]] = []
        for batch, old_T, reference_T in zip(batches, olds, references, strict=True):
            logits_TV = self._logits(self._model, batch)
            log_p_T = _of_targets(logits_TV, batch.targets_T)
            loss, figures = policy_loss(
                log_p_T, old_T, reference_T, batch.advantages_T, entropy_of(logits_TV), settings
            )
            loss.backward()
            self._optimizers.step(settings.rate)
            found.append({"loss": loss.item(), **figures})
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}

    @torch.no_grad()
    def _log_p(self, model: Any, texts: Sequence[PolicyText]) -> Tensor:
        """Return the logarithms of the drawn tokens' likelihoods, in the order of a batch of these texts: [T]."""
        found = []
        for part in _chunks(texts, _CHUNK):
            batch = _PolicyBatch.of(part)
            found.append(_of_targets(self._logits(model, batch), batch.targets_T))
        return torch.cat(found)

    @staticmethod
    def _logits(model: Any, batch: _PolicyBatch) -> Tensor:
        hidden_BLE = model.model(input_ids=batch.ids_BL, use_cache=False).last_hidden_state
        logits_TV: Tensor = model.lm_head(hidden_BLE[batch.is_drawn_BL]).float()
        return logits_TV

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the weights, for rollout workers."""
        return {name: value.detach().clone() for name, value in self._model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Return what the next step depends on, apart from the reference."""
        return self._optimizers.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._optimizers.load(state)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of this process."""
        return time.process_time()


def _of_targets(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    return logits_TV.log_softmax(-1).gather(1, targets_T[:, None])[:, 0]


def _chunks(texts: Sequence[PolicyText], size: int) -> Iterator[Sequence[PolicyText]]:
    return (texts[first : first + size] for first in range(0, len(texts), size))
