"""Training by the final answer's loss, which goes back through the memory of the agents that think."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any

import torch

from examples.tiny_model.document import Mix
from examples.tiny_model.layouts import TranscriptWriter
from examples.tiny_model.packing import pack
from examples.training.protocol.documents import DocumentWriter, ThinkingMix
from examples.training.protocol.loop import run_steps
from examples.training.protocol.losses import LossWeights, aim_loss, answer_losses, total_loss
from examples.training.protocol.model import DESIGN, TrainedModel
from examples.training.protocol.rollout import Realigning, embed, hidden_states, think
from examples.training.protocol.rows import ThoughtRows, join, pack_thinking
from examples.training.studies.cell import CellResult, CellRun

NUM_TOKENS = 512
_WARM_UP = 10
# Without thoughts: what the model could before, so that it does not forget it.
_OLD_MIX = Mix(recall=0.1, drill=0.2, chain=0.4, soft=0.0, blind=0.05, solo=0.9)


@dataclass(frozen=True, kw_only=True)
class ThoughtTraining:
    """The settings of a training. Equal settings give equal data in the same order.

    In the first `num_taught` steps agents are fed the tokens that thoughts aim at instead of thoughts, so one forward
    trains all of them. Later steps have real thoughts, whose number is drawn from `thoughts`, and gradients that go
    through `depth` of them.
    """

    num_steps: int
    num_taught: int = 0
    taught: Sequence[int] = (20, 40)  # numbers of thoughts in these steps
    thoughts: Sequence[int] = (0, 1, 2, 4, 5, 7, 10, 10, 14, 20, 20, 28, 40, 40, 56, 80)
    depth: int = 1
    num_rows: int = 12
    num_old_rows: int = 2  # of the first training's kind, without thoughts
    rate: float = 0.3  # of the first training's learning rates
    share_parallel: float = 0.6
    mix: ThinkingMix = field(default_factory=ThinkingMix)
    losses: LossWeights = field(default_factory=LossWeights)

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "ThoughtTraining":
        """Return the settings that `asdict` made a mapping of, or some of them."""
        parts: dict[str, Any] = {
            "mix": ThinkingMix(**settings.get("mix", {})),
            "losses": LossWeights(**settings.get("losses", {})),
        }
        return cls(**{**settings, **parts})

    def to_json(self) -> dict[str, Any]:
        """Return a mapping for `from_json`."""
        return asdict(self)

    def rate_at(self, step: int) -> float:
        """The share of the learning rates at a step: rises, stays, and falls in the second half."""
        left = (self.num_steps - step) / (0.5 * self.num_steps)
        return self.rate * min(1.0, (step + 1) / _WARM_UP, max(left, 0.02))


def train_cell(run: CellRun) -> CellResult:
    """Train a cell whose settings are those of a `ThoughtTraining`, from `tiny` or from the cell that it comes after.
    Figures are those of `run_steps`."""
    settings = ThoughtTraining.from_json(run.cell.settings["training"])
    trained = TrainedModel(run.start if run.cell.after else None)

    def take_step(step: int) -> dict[str, float]:
        return train_step(trained, settings, run.cell.seed, step)

    return run_steps(run, trained, settings.num_steps, take_step)


def train_step(trained: TrainedModel, settings: ThoughtTraining, seed: int, step: int) -> dict[str, float]:
    """Run one step. Return the parts of the loss, and for each kind of answer the share that is right and the loss."""
    rng, is_taught = Random(f"{seed} {step}"), step < settings.num_taught
    model = trained.model
    rows = make_rows(trained, settings, rng, rng.choice(settings.taught if is_taught else settings.thoughts))
    visible = rows.rows.visible
    with trained.renamed(torch.Generator().manual_seed(seed * 1_000_000 + step)):
        rule = Realigning.of(model)
        if is_taught:
            embedded_BTE = embed(model, rows)
            has_aim = rows.aims_BT >= 0
            embedded_BTE[has_aim] = model.get_input_embeddings().weight.detach()[rows.aims_BT[has_aim]]
        else:
            embedded_BTE = think(model, rule, rows, visible)
        hidden_BTE = hidden_states(model, rule, rows, visible, embedded_BTE, 0 if is_taught else settings.depth)
        answers = answer_losses(model, rows, hidden_BTE)
        loss, figures = total_loss(answers, aim_loss(model, rule, rows, hidden_BTE), settings.losses)
        loss.backward()
    trained.optimized.step(settings.rate_at(step))
    return figures


def make_rows(trained: TrainedModel, settings: ThoughtTraining, rng: Random, num_thoughts: int) -> ThoughtRows:
    """Return a step's rows: of agents with so many thoughts, and of the first training's kind."""
    writer = DocumentWriter(trained.tokenizer, rng, settings.mix)
    documents = writer.documents(num_thoughts, NUM_TOKENS, parallel=rng.random() < settings.share_parallel)
    thinking = pack_thinking(documents, num_thoughts, settings.num_rows - settings.num_old_rows, NUM_TOKENS)
    if not settings.num_old_rows:
        return thinking
    old = TranscriptWriter(trained.tokenizer, rng, DESIGN.marks)
    return join(thinking, pack(old, _OLD_MIX, settings.num_old_rows, NUM_TOKENS))
