"""The votes on one question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class QuestionVotes:
    """What each agent answered to one question, as labels: equal labels are equal answers.

    `num_options` is K, the number of possible answers: the options of a choice, or `open_num_options` where any answer
    is possible. `options` are their labels where all are known. Raises ConfigError for fewer than two options, and for
    votes that are not among them.
    """

    question: str  # the id; with a seed it decides ties
    votes: Mapping[str, str | None]  # label by agent; None for an answer that cannot be read: it is no vote
    num_options: int
    options: tuple[str, ...] = ()  # empty where labels that got no vote have no name

    def __post_init__(self) -> None:
        where = f"question {self.question}"
        if self.num_options < 2:
            raise ConfigError(f"{where}: options", self.num_options, "it must have at least 2: with one all agree")
        if self.options and (len(set(self.options)) < len(self.options) or len(self.options) != self.num_options):
            raise ConfigError(
                f"{where}: options", ", ".join(self.options), f"they must be {self.num_options}, all different"
            )
        labels = set(self.cast.values())
        if self.options and (others := labels - set(self.options)):
            raise ConfigError(f"{where}: vote", min(others), f"it must be one of {', '.join(self.options)}")
        if len(labels) > self.num_options:
            expected = f"the votes have {len(labels)} different labels; it must be at least as many"
            raise ConfigError(f"{where}: options", self.num_options, expected)

    @property
    def cast(self) -> dict[str, str]:
        """The votes without those of agents whose answers cannot be read."""
        return {agent: label for agent, label in self.votes.items() if label is not None}


def open_num_options(votes: Sequence[Mapping[str, str | None]]) -> int:
    """Return K for questions that any answer is possible to: one more than the largest number of different labels that
    one of them got, for all that no agent said.

    It is one K for all: one for each question would be small exactly where the agents agree, and take that for chance.
    """
    return 1 + max((len({label for label in one.values() if label is not None}) for one in votes), default=1)
