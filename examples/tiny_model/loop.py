"""Training of the embedded model: steps, optimizers, and a state from which training can resume.

Forward and gradients are in bfloat16, the master weights in float32.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.tiny_model.document import KINDS, Mix
from examples.tiny_model.first_weights import draw_tokens
from examples.tiny_model.layouts import TranscriptWriter
from examples.tiny_model.optimizing import MasterWeights
from examples.tiny_model.packing import Rows, pack
from examples.tiny_model.soft import soft_embeddings
from examples.tiny_model.texts import CHATML, TurnMarks
from examples.tiny_model.tokens import word_id
from latentmas_ray.tasks.names import HELD_OUT_NAMES, TRAIN_NAMES

_WARM_UP = 30
_DECAY_FROM = 0.55  # share of the steps with a constant rate, during which the number of steps can still be changed
_MATRICES = ("model.embed_tokens.weight", "lm_head.weight")
_NEW_NAMES_FROM = 320


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of a training run. Two runs with equal settings see the same data in the same order."""

    num_steps: int
    first_fall: int = 730  # the rate decays to its minimum here; with more steps it restarts at about half
    num_rows: int = 18
    num_tokens: int = 512
    seed: int = 2511
    rate: float = 1.0


@dataclass
class TrainingProgress:
    """The state of a training run; `history` has one row of metrics per report."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains one model in place. `save` and `load` store and restore everything that the next step depends on."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        settings: TrainingSettings,
        mix_at: Callable[[int], Mix],
        *,
        marks: TurnMarks = CHATML,
        compiled: bool = True,
    ) -> None:
        self.model, self.settings, self.progress = model, settings, TrainingProgress()
        self.tokenizer, self._mix_at, self._marks = tokenizer, mix_at, marks
        self._weights = MasterWeights(model)
        self._masters = self._weights.masters
        self._trained_names = [word_id(tokenizer, name) for name in TRAIN_NAMES]
        self._names = [*self._trained_names, *(word_id(tokenizer, name) for name in HELD_OUT_NAMES)]
        self._first = {name: self._masters[name][self._names].clone() for name in _MATRICES}
        self._base = torch.compile(model.model, dynamic=False) if compiled else model.model

    def step(self) -> dict[str, float]:
        """Run one step. Return the loss and, for each kind, the shares of right tokens and of right whole answers."""
        begin = time.perf_counter()
        settings, step = self.settings, self.progress.step
        writer = TranscriptWriter(self.tokenizer, Random(f"{settings.seed} {step}"), self._marks)
        if step >= _NEW_NAMES_FROM:
            self._rename(torch.Generator().manual_seed(settings.seed * 1_000_000 + step))
        rows = pack(writer, self._mix_at(step), settings.num_rows, settings.num_tokens)
        loss, figures = self._loss(rows)
        loss.backward()
        self._weights.step(self._rate(step), self._share)
        self.progress.step += 1
        self.progress.seconds += time.perf_counter() - begin
        return {"loss": loss.item(), **figures}

    def _rate(self, step: int) -> float:
        first, last = self.settings.first_fall, self.settings.num_steps
        end = first if step < first < last else last
        left = (end - step) / (end * (1 - _DECAY_FROM))
        return self.settings.rate * min(1.0, (step + 1) / _WARM_UP, max(left, 0.02))

    def _loss(self, rows: Rows) -> tuple[Tensor, dict[str, float]]:
        hidden = self._base(
            inputs_embeds=self._embed(rows),
            position_ids=rows.positions_BT,
            attention_mask=rows.visible[:, None],
            use_cache=False,
        ).last_hidden_state
        is_target = rows.targets_BT >= 0
        logits = self.model.lm_head(hidden[is_target]).float()
        targets = rows.targets_BT[is_target]
        return cross_entropy(logits, targets), accuracies(logits.argmax(-1) == targets, rows)

    def _embed(self, rows: Rows) -> Tensor:
        """Return input embeddings. Soft tokens, like thoughts, are not words, and readers must learn to handle them."""
        matrix_VE: Tensor = self.model.model.embed_tokens.weight
        embedded_BTE: Tensor = self.model.model.embed_tokens(rows.ids_BT)
        is_soft = rows.soft_BT.bool()
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_000 + self.progress.step)
        # A segment has one run of soft tokens at most.
        runs_N = (torch.arange(len(rows.ids_BT))[:, None] * 10_000 + rows.own_BT)[is_soft]
        soft_NE = soft_embeddings(matrix_VE, rows.ids_BT[is_soft], runs_N, generator)
        return embedded_BTE.masked_scatter(is_soft[..., None], soft_NE.to(embedded_BTE.dtype))

    def _share(self, gradients: Mapping[str, Tensor]) -> None:
        """Give all names, in both matrices, the mean gradient of the names in the data.

        So names differ from each other only in their random initial part, and held-out names are like the others.
        """
        for gradient_VE in gradients.values():
            if len(gradient_VE) == self.tokenizer.get_vocab_size():
                gradient_VE[self._names] = gradient_VE[self._trained_names].mean(0)

    def _rename(self, generator: torch.Generator) -> None:
        """Replace the random part of every name for this step, in both matrices; the master weights are unchanged.

        A model that sees new names in every step cannot memorise a name, so it treats all names equally.
        """
        input_VE, output_VE = draw_tokens(
            len(self._names), self._first["model.embed_tokens.weight"].shape[1], generator
        )
        for name, new in (("model.embed_tokens.weight", input_VE), ("lm_head.weight", output_VE)):
            learned = self._masters[name][self._names] - self._first[name]
            dict(self.model.named_parameters())[name].data[self._names] = (learned + new).bfloat16()

    def save(self, path: Path) -> None:
        """Write the state atomically: if the process is killed meanwhile, the previous state is intact."""
        state = {
            "recipe": asdict(self.settings),
            "progress": asdict(self.progress),
            **self._weights.state(),
        }
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        """Load a state to resume from."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.progress = TrainingProgress(**state["progress"])
        self._weights.load(state)


def accuracies(is_right: Tensor, rows: Rows) -> dict[str, float]:
    """Return, for each kind, the share of right tokens and of right whole answers (all targets of one segment)."""
    is_target = rows.targets_BT >= 0
    kinds = rows.kinds_BT[is_target]
    row = torch.arange(len(rows.ids_BT))[:, None].expand_as(is_target)[is_target]
    answer = (row * 10_000 + rows.own_BT[is_target]) * len(KINDS) + kinds
    names, index = answer.unique(return_inverse=True)
    whole = torch.ones(len(names), dtype=torch.long).scatter_reduce(0, index, is_right.long(), "amin")
    kind = names % len(KINDS)
    figures: dict[str, float] = {}
    for number, name in enumerate(KINDS):
        if (kinds == number).any():
            figures[name] = float(whole[kind == number].float().mean())
            figures[f"{name} tokens"] = float(is_right[kinds == number].float().mean())
    return figures
