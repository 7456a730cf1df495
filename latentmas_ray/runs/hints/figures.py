"""Computes the figures of a run with hints, which `scores.py` explains."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from latentmas_ray.runs.hints.rows import question_of
from latentmas_ray.runs.hints.scores import SCORES, HintFigures, HintScores, ScoreName, Scores
from latentmas_ray.runs.results import Answer
from latentmas_ray.stats import PairedDifference, accuracy_interval, compare_paired
from latentmas_ray.tasks.question import Question
from latentmas_ray.voting.answers import label_answers, option_labels
from latentmas_ray.voting.rules import decide
from latentmas_ray.voting.votes import QuestionVotes


class _Given(NamedTuple):
    """One answer of a question."""

    prediction: str | None
    correct: bool


def hint_figures(answers: Sequence[Answer], questions: Mapping[str, Question], *, seed: int = 0) -> HintFigures | None:
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
    """Return the scores of each graded question, by the id of the question that has the hints. Rows with the same hint
    are more answers with it."""
    rows: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.hint is not None and _given(answer):
            rows.setdefault(question_of(answer), []).append(answer)
    return {name: _scores(name, own, questions[own[0].id], seed) for name, own in rows.items()}


def mean_scores(runs: Sequence[Mapping[str, Scores]]) -> dict[str, Scores]:
    """Return the means of each question's scores over runs with several seeds, of the questions of all of them."""
    shared = [name for name in runs[0] if all(name in run for run in runs)] if runs else []
    return {name: {score: fmean(run[name][score] for run in runs) for score in runs[0][name]} for name in shared}


def compare_scores(base: Mapping[str, Scores], other: Mapping[str, Scores]) -> dict[ScoreName, PairedDifference]:
    """Return the paired differences of each score, other − base, over the questions of both."""
    shared = [name for name in base if name in other]
    names = [score for score in SCORES if shared and all(score in base[one] and score in other[one] for one in shared)]
    return {
        score: compare_paired([base[one][score] for one in shared], [other[one][score] for one in shared])
        for score in names
    }


def _scores(name: str, rows: Sequence[Answer], question: Question, seed: int) -> Scores:
    by_hint: dict[int, list[_Given]] = {}
    for row in rows:
        by_hint.setdefault(0 if row.hint is None else row.hint.number, []).extend(_given(row))
    means = [fmean(one.correct for one in given) for given in by_hint.values()]
    every = [one for number in sorted(by_hint) for one in by_hint[number]]
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
    """Return the graded answers of a row: all that its agent drew."""
    if answer.decision is not None:
        return [_Given(vote.prediction, vote.correct) for vote in answer.votes if vote.correct is not None]
    return [] if answer.correct is None else [_Given(answer.prediction, answer.correct)]


def _summed(found: Mapping[str, Scores]) -> HintScores:
    values = {
        score: [one[score] for one in found.values()] for score in SCORES if all(score in one for one in found.values())
    }
    return HintScores(
        num_questions=len(found),
        shares={score: fmean(each) for score, each in values.items()},
        intervals={score: accuracy_interval(each) for score, each in values.items()},
    )
