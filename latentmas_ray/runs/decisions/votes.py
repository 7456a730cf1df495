"""What a row of results has of several answers to its question: the votes, and the decision."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter

from latentmas_ray.config.choices import DecisionRule
from latentmas_ray.engine.turn import CutOff
from latentmas_ray.tasks.question import Grade, NumberSource


@dataclass(frozen=True, kw_only=True)
class AnswerVote:
    """One answer to a question: one sample of one answering agent."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    agent: str
    sample: int = 0  # its number among the answers of the agent
    seed: int  # a run of one sample with this seed gives the same answer
    answer: str
    answer_token_ids: tuple[int, ...] = ()
    prediction: str | None = None  # None: it cannot be read, and is no vote
    label: str | None = None  # what it counts for: equal labels are equal answers; None: no vote
    correct: bool | None = None
    numbers_from: NumberSource | None = None
    adopted: bool | None = None  # with memory corrupted
    cut_off: CutOff = "no"
    error: str | None = None  # why the agent has no answer

    @property
    def voter(self) -> str:
        """The agent, from its second sample on with the sample's number."""
        return voter_name(self.agent, self.sample)

    @property
    def grade(self) -> Grade:
        """What its grader said."""
        return Grade(
            prediction=self.prediction,
            correct=self.correct,
            numbers_from=self.numbers_from,
            adopted=self.adopted,
        )


def voter_name(agent: str, sample: int) -> str:
    """Return how weights name one of the answers of an agent."""
    return f"{agent}/{sample}" if sample else agent


@dataclass(frozen=True, kw_only=True)
class RowDecision:
    """How the answer of a row was made of its votes. `is_final` is False in the rows of a run that has not ended, whose
    rule needs the votes on all of its questions: until then the majority decides."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    rule: DecisionRule
    label: str | None  # None: there was no vote
    is_final: bool = True
    num_options: int  # K
    weights: Mapping[str, float] = field(default_factory=dict)  # by voter, of those that voted
    scores: Mapping[str, float] = field(default_factory=dict)  # by label
    tied: tuple[str, ...] = ()  # all labels with the largest score, if there are several


_VOTES = TypeAdapter(tuple[AnswerVote, ...])
_DECISION = TypeAdapter(RowDecision)


def votes_row(votes: tuple[AnswerVote, ...], decision: RowDecision | None) -> dict[str, Any]:
    """Return the keys of a row about its votes; none for a question with one answer."""
    if decision is None:
        return {}
    rows = [{**asdict(vote), "answer_token_ids": list(vote.answer_token_ids)} for vote in votes]
    return {"votes": rows, "decision": {**asdict(decision), "tied": list(decision.tied)}}


def votes_of_row(row: Mapping[str, Any]) -> tuple[tuple[AnswerVote, ...], RowDecision | None]:
    """The inverse of `votes_row`. Raises TypeError or ValueError for a row of another form."""
    if row.get("decision") is None:
        return (), None
    return _VOTES.validate_python(row["votes"]), _DECISION.validate_python(row["decision"])
