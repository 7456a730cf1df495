"""What the summary of a run says about its votes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from latentmas_ray.config.choices import DecisionRule
from latentmas_ray.runs.decisions.votes import AnswerVote, RowDecision


@dataclass(frozen=True, kw_only=True)
class AgentVotes:
    """The answers of one answering agent, all of its samples together."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    answers: int
    graded: int
    right: int
    no_vote: int  # answers that could not be read, or are missing

    @property
    def accuracy(self) -> float | None:
        """The share of right answers; None if none was graded."""
        return self.right / self.graded if self.graded else None


@dataclass(frozen=True, kw_only=True)
class VoteFigures:
    """The votes of a run, and how they were decided."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    rule: DecisionRule
    num_questions: int
    agents: Mapping[str, AgentVotes]
    weights: Mapping[str, float] = field(default_factory=dict)  # by agent: mean over its votes
    num_tied: int = 0  # questions
    num_undecided: int = 0  # questions without a vote
    any_right: float | None = None  # share of graded questions with a right answer among the votes
    all_same: float = 0.0  # share of questions on which all votes are the same


def vote_figures(
    voted: Sequence[tuple[Sequence[AnswerVote], RowDecision]],
) -> VoteFigures | None:
    """Return the figures of questions with several answers; None without any."""
    if not voted:
        return None
    votes = [vote for own, _ in voted for vote in own]
    names = dict.fromkeys(vote.agent for vote in votes)
    weights: dict[str, list[float]] = {name: [] for name in names}
    for own, decision in voted:
        for vote in own:
            if vote.voter in decision.weights:
                weights[vote.agent].append(decision.weights[vote.voter])
    graded = [own for own, _ in voted if any(vote.correct is not None for vote in own)]
    return VoteFigures(
        rule=voted[0][1].rule,
        num_questions=len(voted),
        agents={name: _of_agent([vote for vote in votes if vote.agent == name]) for name in names},
        weights={name: sum(own) / len(own) for name, own in weights.items() if own},
        num_tied=sum(bool(decision.tied) for _, decision in voted),
        num_undecided=sum(decision.label is None for _, decision in voted),
        any_right=sum(any(vote.correct for vote in own) for own in graded) / len(graded) if graded else None,
        all_same=sum(len({vote.label for vote in own if vote.label}) == 1 for own, _ in voted) / len(voted),
    )


def _of_agent(votes: Sequence[AnswerVote]) -> AgentVotes:
    return AgentVotes(
        answers=len(votes),
        graded=sum(vote.correct is not None for vote in votes),
        right=sum(bool(vote.correct) for vote in votes),
        no_vote=sum(vote.label is None for vote in votes),
    )
