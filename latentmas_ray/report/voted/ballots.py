"""Questions with the votes of all voters on each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError
from latentmas_ray.runs.results import Answer
from latentmas_ray.tasks.question import Question
from latentmas_ray.voting.answers import gold_label, label_answers, option_labels
from latentmas_ray.voting.votes import QuestionVotes, open_num_options

OPEN = "open"
NUM_OPTIONS_FORM = f"it must be the number of possible answers, at least 2, or {OPEN} where any answer is possible"


@dataclass(frozen=True, kw_only=True)
class Voter:
    """One agent of a vote: a run, or a name in a file of votes."""

    name: str
    model: str | None = None  # None: not known
    config: RunConfig | None = None  # of a run
    seconds_per_question: float | None = None  # of a finished run


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """One question with what each voter answered."""

    question: Question
    votes: QuestionVotes
    gold: str | None  # the label of the right answer; None without a gold
    answers: Mapping[str, Answer]  # the rows of the runs; empty for votes from a file
    texts: Mapping[str, str]  # the answers by voter, as they were given


@dataclass(frozen=True, kw_only=True)
class Ballots:
    """All questions of a vote."""

    task: str
    voters: tuple[Voter, ...]
    ballots: tuple[Ballot, ...]
    num_options: str  # what K is, in words
    notes: tuple[str, ...] = ()

    @property
    def votes(self) -> list[QuestionVotes]:
        return [ballot.votes for ballot in self.ballots]


@dataclass(frozen=True, kw_only=True)
class GivenAnswers:
    """One question and the answers to it, before they are counted as votes."""

    question: Question
    predictions: Mapping[str, str | None]  # by voter, as the grader read them
    right: str | None = None  # a prediction that was graded right
    options: tuple[str, ...] = ()  # labels of the options, if they are no letters
    num_options: int | None = None  # of this question, where it is not that of all
    answers: Mapping[str, Answer]
    texts: Mapping[str, str]


def make_ballots(
    given: Sequence[GivenAnswers], num_options: int | str | None, *, default: str | None = None
) -> tuple[tuple[Ballot, ...], str]:
    """Return the ballots, and in words what K is. `num_options` is what the user said of questions without options: a
    number, OPEN, or None for the default; without a default it must be said.

    Raises TaskError for answers that cannot be voted on, ConfigError if K is not known or too small, and if all
    answers to all questions are the same one.
    """
    labelled = [(one, *_labelled(one)) for one in given]
    all_labels = {label for _, _, labels in labelled for label in labels.values() if label is not None}
    if not all_labels:
        raise ConfigError("answers", "none", "no agent has an answer that can be read: there is nothing to vote on")
    if len(all_labels) == 1 and len(given) > 1:
        expected = "it is the answer of all agents to all questions: there is nothing to decide"
        raise ConfigError("answers", min(all_labels), expected)
    open_labels = [labels for one, options, labels in labelled if not options and one.num_options is None]
    chosen = (num_options or default) if open_labels else None
    if open_labels and chosen is None:
        raise ConfigError("options", "nothing", f"{NUM_OPTIONS_FORM}; or give each question its options")
    if not open_labels and num_options is not None:
        raise ConfigError("options", num_options, "the questions have their own options; leave it out")
    shared = open_num_options(open_labels) if chosen == OPEN else chosen
    ballots = []
    for one, options, labels in labelled:
        number = len(options) or one.num_options or shared
        assert isinstance(number, int)
        votes = QuestionVotes(question=one.question.id, votes=labels, num_options=number, options=options)
        ballots.append(
            Ballot(question=one.question, votes=votes, gold=_gold(one, labels), answers=one.answers, texts=one.texts)
        )
    return tuple(ballots), _in_words(ballots, is_open=chosen == OPEN)


def _labelled(one: GivenAnswers) -> tuple[tuple[str, ...], dict[str, str | None]]:
    if one.options:
        return one.options, {name: text if text in one.options else None for name, text in one.predictions.items()}
    return option_labels(one.question), label_answers(one.question, one.predictions)


def _gold(one: GivenAnswers, labels: Mapping[str, str | None]) -> str | None:
    """Return the label of the right answer: that which a run has graded right, else as the grader finds now."""
    if one.question.gold is None:
        return None
    for name, text in one.predictions.items():
        if text is not None and text == one.right:
            return labels[name]
    return one.question.gold if one.options else gold_label(one.question, labels)


def _in_words(ballots: Sequence[Ballot], *, is_open: bool) -> str:
    counts = sorted({ballot.votes.num_options for ballot in ballots})
    words = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if is_open:
        return f"{words} (open: one more than the most different answers to one question)"
    return words
