"""The figures of a run with m hints for each question and k answers with each hint (RLAD, arXiv 2510.02263).

With a_{zj} = 1 if answer j with hint z is right, else 0, of one question:

average      1/(mk) Σ_z Σ_j a_{zj}: what a hint is worth that nobody has chosen
best hint    max_z 1/k Σ_j a_{zj}: of an oracle that knows which hint is the best one
best answer  max_{z,j} a_{zj}: of an oracle that knows which answer is right
voted        1 if the majority of all mk answers is right: of what can be had without an oracle

each a mean over questions. The two oracles gain from the number of tries alone, so they are compared with the same
figures of as many answers without a hint (memory none), which are in as many groups.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import ConfigDict

from latentmas_ray.config import HintSource
from latentmas_ray.runs.hints.rows import base_question
from latentmas_ray.runs.results import Answer
from latentmas_ray.stats import PairedDifference, accuracy_interval, compare_paired
from latentmas_ray.tasks.question import Question
from latentmas_ray.voting.answers import label_answers, option_labels
from latentmas_ray.voting.rules import decide
from latentmas_ray.voting.votes import QuestionVotes

ScoreName = Literal["average", "best hint", "best answer", "voted"]
SCORES: tuple[ScoreName, ...] = get_args(ScoreName)
Scores = Mapping[ScoreName, float]  # of one question


@dataclass(frozen=True, kw_only=True)
class HintScores:
    """The means over questions, with their 95 % intervals (`stats.accuracy_interval`)."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    num_questions: int
    shares: Mapping[ScoreName, float]  # without `voted` for answers that cannot be compared, which are programs
    intervals: Mapping[ScoreName, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class HintFigures:
    """The figures of a run. Hints that leak are part of `scores`; `without_leaks` leaves them out, and the questions of
    which no hint is left."""

    source: HintSource
    num_hints: int  # of each question: m
    num_answers: int  # with each hint: k
    scores: HintScores
    num_read: int  # hints in words, in which a leak can be found
    num_leaks: int
    without_leaks: HintScores | None = None  # None if no hint leaks, or none is left

    def to_json(self) -> dict[str, Any]:
        """The object of summary.json."""
        return asdict(self)


class _Given(NamedTuple):
    """One answer of a question."""

    prediction: str | None
    correct: bool


def hint_figures(
    answers: Sequence[Answer], questions: Mapping[str, Question], *, seed: int = 0
) -> HintFigures | None:
    """Return the figures of a run; None without hints or golds. `questions` are those of the answers, by id; `seed`
    decides ties of votes."""
    used = [answer.hint for answer in answers if answer.hint is not None]
    found = score_questions(answers, questions, seed=seed)
    if not used or not found:
        return None
    leaking = {answer.id for answer in answers if answer.hint is not None and answer.hint.leaks}
    rest = score_questions([one for one in answers if one.id not in leaking], questions, seed=seed) if leaking else {}
    return HintFigures(
        source=used[0].source,
        num_hints=used[0].of,
        num_answers=max(len(_given(answer)) for answer in answers),
        scores=_summed(found),
        num_read=sum(hint.leaks is not None for hint in used),
        num_leaks=len(leaking),
        without_leaks=_summed(rest) if rest else None,
    )


def score_questions(
    answers: Iterable[Answer], questions: Mapping[str, Question], *, seed: int = 0
) -> dict[str, Scores]:
    """Return the scores of each graded question, by the id of the question that has the hints."""
    rows: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.hint is not None and _given(answer):
            rows.setdefault(base_question(answer.id, answer.hint), []).append(answer)
    return {name: _scores(name, own, questions[own[0].id], seed) for name, own in rows.items()}


def compare_scores(base: Mapping[str, Scores], other: Mapping[str, Scores]) -> dict[ScoreName, PairedDifference]:
    """Return the paired differences of each score, other − base, over the questions of both."""
    shared = [name for name in base if name in other]
    names = [score for score in SCORES if shared and all(score in base[one] and score in other[one] for one in shared)]
    return {
        score: compare_paired([base[one][score] for one in shared], [other[one][score] for one in shared])
        for score in names
    }


def _scores(name: str, rows: Sequence[Answer], question: Question, seed: int) -> Scores:
    by_hint = [_given(row) for row in rows]
    means = [fmean(one.correct for one in given) for given in by_hint]
    every = [one for given in by_hint for one in given]
    scores: dict[ScoreName, float] = {
        "average": fmean(one.correct for one in every),
        "best hint": max(means),
        "best answer": float(any(one.correct for one in every)),
    }
    voted = _voted(name, question, every, seed)
    return scores if voted is None else {**scores, "voted": float(voted)}


def _voted(name: str, question: Question, given: Sequence[_Given], seed: int) -> bool | None:
    """Return whether the majority is right; False if no answer can be read, None for programs, which cannot be
    compared."""
    if question.kind == "code":
        return None
    labels = label_answers(question, {str(place): one.prediction for place, one in enumerate(given)})
    options = option_labels(question)
    different = {label for label in labels.values() if label is not None}
    votes = QuestionVotes(
        question=name, votes=labels, num_options=len(options) or max(2, len(different)), options=options
    )
    label = decide(votes, "majority", seed=seed).label
    return any(one.correct for place, one in enumerate(given) if label is not None and labels[str(place)] == label)


def _given(answer: Answer) -> list[_Given]:
    """Return the graded answers of a row."""
    return [] if answer.correct is None else [_Given(answer.prediction, answer.correct)]


def _summed(found: Mapping[str, Scores]) -> HintScores:
    values = {
        score: [one[score] for one in found.values()]
        for score in SCORES
        if all(score in one for one in found.values())
    }
    return HintScores(
        num_questions=len(found),
        shares={score: fmean(each) for score, each in values.items()},
        intervals={score: accuracy_interval(each) for score, each in values.items()},
    )
