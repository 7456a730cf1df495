"""From answers to rewards: what a hint is worth, which hints are kept, and what the solver learns from.

Everything here is plain data of one step: problems, texts and verdicts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from examples.training.rlad.actors.learner import PolicyText
from examples.training.rlad.actors.rollouts import DrawnText
from examples.training.rlad.losses import group_advantages, hint_reward, solver_rewards
from examples.training.rlad.task.machine import MachineProblem
from latentmas_ray.tasks import Question, grade


def is_right(problem: MachineProblem, text: str) -> bool:
    """Return whether a text answers the problem, by the project's grading."""
    question = Question(id="1", question=problem.question, kind="number", gold=str(problem.gold), record={})
    return bool(grade(question, text).correct)


def verdicts(problem: MachineProblem, texts: Sequence[DrawnText]) -> list[bool]:
    """Return whether each text answers the problem and ends: if texts that are cut off were rewarded, too, the solver
    would unlearn to end, and wherever more tokens are allowed, it would write another answer behind the right one."""
    return [text.has_ended and is_right(problem, text.text) for text in texts]


def hits(problem: MachineProblem, texts: Sequence[DrawnText]) -> list[bool]:
    """Return whether each text has the problem's answer, ended or not: what a leak is."""
    return [is_right(problem, text.text) for text in texts]


@dataclass(frozen=True, kw_only=True)
class HintTrial:
    """What was tried with one hint: the share of right answers with it and without any, and whether it leaks."""

    hint: DrawnText
    success: float
    bare_success: float
    has_gold: bool  # by the words of the hint
    num_blind_hits: int = 0  # tries without the problem that give its answer

    def is_better(self, margin: float) -> bool:
        """Return whether the hint is worth a leak test: it ends, has no gold, and beats the bare success."""
        return self.hint.has_ended and not self.has_gold and self.success > self.bare_success + margin

    def is_kept(self, margin: float) -> bool:
        """Return whether the abstraction agent is fitted to the hint."""
        return self.is_better(margin) and self.num_blind_hits == 0


def trial_of(hint: DrawnText, answers: Sequence[bool], bare: Sequence[bool], *, has_gold: bool) -> HintTrial:
    """Return the trial of a hint from the verdicts of answers with it and without any."""
    return HintTrial(
        hint=hint,
        success=hint_reward(torch.tensor(answers)),
        bare_success=hint_reward(torch.tensor(bare)),
        has_gold=has_gold,
    )


def solver_texts(
    groups: Sequence[Sequence[DrawnText]], correct: Sequence[Sequence[bool]], has_hint: Sequence[bool]
) -> list[PolicyText]:
    """Return the texts of the solver's step with their advantages. Each group are the answers to one prompt; groups
    without a hint have advantages of 0 and stay, for the KL."""
    rewards_GN = solver_rewards(torch.tensor([list(one) for one in correct]), torch.tensor(list(has_hint)))
    advantages_GN = group_advantages(rewards_GN)
    return [
        replace(text.learned, advantage=float(advantages_GN[group, number]))
        for group, texts in enumerate(groups)
        for number, text in enumerate(texts)
    ]
