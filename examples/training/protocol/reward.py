"""Training by grades: the answering agent's own answers are graded, after thoughts that are drawn again with noise.

Every question is answered several times, each time after other thoughts, and an answer whose grade is above its
group's mean becomes likelier: policy gradient with advantages normalised within groups. No right answer is shown.
Gradients go through the answers and what the agents write to their memory while they think, not through the noise.

Dimensions: A answers, B rows, T tokens per row, S answers of a row, N tokens of all answers, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from examples.training.protocol.documents import Branch, DocumentWriter, ThinkingDocument, ThinkingMix
from examples.training.protocol.loop import run_steps
from examples.training.protocol.model import TrainedModel
from examples.training.protocol.rollout import Realigning, ThoughtNoise, extend, hidden_states, think
from examples.training.protocol.rows import ThoughtRows, pack_thinking
from examples.training.protocol.train import NUM_TOKENS
from examples.training.studies.cell import CellResult, CellRun
from latentmas_ray.tasks import grade

_WARM_UP = 10
_IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class RewardTraining:
    """The settings of a training by grades. Equal settings give equal data in the same order."""

    num_steps: int
    group_size: int = 6  # answers to a question
    noise: float = 0.1  # of a thought's norm
    thoughts: Sequence[int] = (5, 10, 10, 20, 20, 40)
    max_answer: int = 40  # tokens; the longest right answer has fewer
    num_rows: int = 24
    rate: float = 0.02  # of the first training's learning rates
    kl: float = 0.02
    share_parallel: float = 0.6
    mix: ThinkingMix = field(default_factory=lambda: ThinkingMix(chain=0.3, alone=0.7, wrong=0.0))

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> "RewardTraining":
        """Return the settings that `asdict` made a mapping of, or some of them."""
        mix: dict[str, Any] = {"mix": ThinkingMix(**settings["mix"])} if "mix" in settings else {}
        return cls(**{**settings, **mix})

    def to_json(self) -> dict[str, Any]:
        """Return a mapping for `from_json`."""
        return asdict(self)


def reward_cell(run: CellRun) -> CellResult:
    """Train the weights of the cell that this one comes after by grades; its settings are a `RewardTraining`. Figures
    are those of `run_steps`."""
    settings = RewardTraining.from_json(run.cell.settings["reward"])
    trained, reference = TrainedModel(run.start), TrainedModel(run.start)

    def take_step(step: int) -> dict[str, float]:
        return reward_step(trained, reference, settings, run.cell.seed, step)

    return run_steps(run, trained, settings.num_steps, take_step)


def reward_step(
    trained: TrainedModel, reference: TrainedModel, settings: RewardTraining, seed: int, step: int
) -> dict[str, float]:
    """Run one step: answer, grade, and change the weights. Return the mean reward and the parts of the loss."""
    rng, generator = Random(f"reward {seed} {step}"), torch.Generator().manual_seed(seed * 1_000_000 + step)
    num_thoughts = rng.choice(settings.thoughts)
    asked = _AskedRows(trained, settings, rng, num_thoughts)
    rows, visible = asked.rows, asked.rows.rows.visible
    names = torch.Generator().manual_seed(seed * 1_000_000 + step)
    with trained.renamed(names), reference.renamed(names.manual_seed(seed * 1_000_000 + step)):
        rule = Realigning.of(trained.model)
        noise = ThoughtNoise(settings.noise, rule.norm, generator)
        embedded_BTE = think(trained.model, rule, rows, visible, noise)
        written = write_answers(
            trained.model, rows, visible, embedded_BTE, asked.starts_BS, settings.max_answer, generator
        )
        rewards_A, targets_BT = asked.graded(written)
        advantages_A = group_advantages(rewards_A, asked.groups_A)
        hidden_BTE = hidden_states(trained.model, rule, rows, visible, embedded_BTE, 0)
        with torch.no_grad():
            old_BTE = hidden_states(reference.model, rule, rows, visible, embedded_BTE, 0)
        is_target = targets_BT >= 0
        log_N = _log_likelihoods(trained.model, hidden_BTE, targets_BT)
        ratio_N = _log_likelihoods(reference.model, old_BTE, targets_BT).detach() - log_N
        weight_N = asked.of_tokens(advantages_A)[is_target]
        gained = -(weight_N * log_N).sum() / (len(rewards_A) * settings.max_answer)
        kl = (ratio_N.exp() - ratio_N - 1).mean()
        (gained + settings.kl * kl).backward()
    trained.optimized.step(settings.rate * min(1.0, (step + 1) / _WARM_UP))
    return {
        "reward": float(rewards_A.mean()),
        "mixed groups": float((advantages_A != 0).float().mean()),
        "kl": float(kl.detach()),
        f"reward {num_thoughts} thoughts": float(rewards_A.mean()),
    }


class _AskedRows:
    """The rows of a step: every document several times in turn, its answers empty, and all questions numbered."""

    def __init__(self, trained: TrainedModel, settings: RewardTraining, rng: Random, num_thoughts: int) -> None:
        self._tokenizer, self._max_answer = trained.tokenizer, settings.max_answer
        self._end = trained.model.config.eos_token_id
        writer = DocumentWriter(trained.tokenizer, rng, settings.mix)
        documents = writer.documents(num_thoughts, NUM_TOKENS, parallel=rng.random() < settings.share_parallel)
        self._branches: dict[int, Branch] = {}
        copies = self._copies(documents, settings.group_size, num_thoughts)
        self.rows: ThoughtRows = pack_thinking(copies, num_thoughts, settings.num_rows, NUM_TOKENS)
        groups_BT, own_BT = self.rows.groups_BT, self.rows.rows.own_BT
        is_first = (self.rows.rows.targets_BT >= 0) & (self.rows.rows.targets_BT.roll(1, 1) < 0)
        self.starts_BS = _columns(is_first) + 1  # a target is at the token before it
        self.starts_BS[self.starts_BS == 0] = -1
        row_A, column_A = is_first.nonzero(as_tuple=True)
        self.groups_A = groups_BT[row_A, column_A]
        self._places = (row_A, column_A)
        self._own_BT = own_BT

    def _copies(
        self, documents: Iterator[ThinkingDocument], times: int, num_thoughts: int
    ) -> Iterator[ThinkingDocument]:
        for document in documents:
            branches = []
            for branch in document.branches:
                empty = replace(branch, answer=[0] * self._max_answer, group=len(self._branches) + 1)
                self._branches[empty.group] = branch
                branches.append(empty)
            while branches and replace(document, branches=tuple(branches)).num_tokens(num_thoughts) > NUM_TOKENS:
                branches.pop()
            if branches:
                yield from [replace(document, branches=tuple(branches))] * times

    def graded(self, written: Tensor) -> tuple[Tensor, Tensor]:
        """Grade answers [A, tokens] in the order of `groups_A`; return 0 or 1 for each [A], and targets [B, T], which
        end with each answer's end token."""
        targets_BT = torch.full_like(self.rows.rows.targets_BT, _IGNORED)
        rewards = []
        for row, column, group, ids in zip(*self._places, self.groups_A.tolist(), written.tolist(), strict=True):
            length = ids.index(self._end) + 1 if self._end in ids else len(ids)
            targets_BT[row, column : column + length] = torch.tensor(ids[:length])
            text = self._tokenizer.decode(ids[: length - (self._end in ids)], skip_special_tokens=True)
            rewards.append(float(bool(self._end in ids and grade(self._branches[group].question, text).correct)))
        return torch.tensor(rewards), targets_BT

    def of_tokens(self, values_A: Tensor) -> Tensor:
        """Give each token [B, T] the value of its answer."""
        spread_BT = torch.zeros(self._own_BT.shape)
        for row, column, value in zip(*self._places, values_A.tolist(), strict=True):
            spread_BT[row, column : column + self._max_answer] = value
        return spread_BT


def write_answers(
    model: Any,
    rows: ThoughtRows,
    visible: Tensor,
    embedded_BTE: Tensor,
    starts_BS: Tensor,
    num: int,
    generator: torch.Generator,
) -> Tensor:
    """Sample `num` tokens from each start (-1: none) at temperature 1, and fill their embeddings in. Return them as
    [A, num], the answers of one row after those of the row before. What follows an end token means nothing."""
    matrix_VE = model.get_input_embeddings().weight.detach()
    drawn: list[Tensor] = []

    def next_input(hidden_BSE: Tensor, _: int) -> Tensor:
        logits_BSV = model.get_output_embeddings()(hidden_BSE).float()
        chances_NV = logits_BSV.flatten(0, 1).softmax(-1)
        drawn.append(torch.multinomial(chances_NV, 1, generator=generator).view(starts_BS.shape))
        fed_BSE: Tensor = matrix_VE[drawn[-1]]
        return fed_BSE

    extend(model, rows, visible, embedded_BTE, starts_BS, num, next_input)
    return torch.stack(drawn, dim=-1)[starts_BS >= 0]


def group_advantages(rewards_A: Tensor, groups_A: Tensor) -> Tensor:
    """Return (r − mean) / (standard deviation + 1e-6) within each group; 0 where all rewards are equal."""
    advantages_A = torch.zeros_like(rewards_A)
    for group in groups_A.unique():
        chosen = groups_A == group
        rewards = rewards_A[chosen]
        if len(rewards) > 1 and rewards.min() < rewards.max():
            advantages_A[chosen] = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    return advantages_A


def _log_likelihoods(model: Any, hidden_BTE: Tensor, targets_BT: Tensor) -> Tensor:
    is_target = targets_BT >= 0
    logits_NV = model.get_output_embeddings()(hidden_BTE[is_target]).float()
    found: Tensor = logits_NV.log_softmax(-1).gather(1, targets_BT[is_target][:, None])[:, 0]
    return found


def _columns(is_there_BT: Tensor) -> Tensor:
    """The columns [B, S] where a row is True, in order, filled with -1."""
    found = [row.nonzero()[:, 0].tolist() for row in is_there_BT]
    width = max(map(len, found))
    return torch.tensor([columns + [-1] * (width - len(columns)) for columns in found])
