"""Votes and decisions in words."""

from latentmas_ray.runs.decisions.votes import AnswerVote, RowDecision

_RIGHT = {True: "right", False: "wrong", None: "not graded"}
_MAX_SCORES = 6


def outcome_of_vote(vote: AnswerVote) -> str:
    """Return `right`, `wrong`, `not graded`, `no vote` or `no answer`."""
    if vote.error is not None:
        return "no answer"
    return "no vote" if vote.label is None else _RIGHT[vote.correct]


def describe_decision(decision: RowDecision) -> str:
    """Return a decision in one line: `majority: 12 (5 of 8), then 11 (3)`."""
    if decision.label is None:
        return f"{decision.rule}: no answer could be read, so there was no vote"
    ordered = sorted(decision.scores.items(), key=lambda one: (one[0] != decision.label, -one[1]))
    scores = ", ".join(f"{label} {score:.4g}" for label, score in ordered[:_MAX_SCORES])
    tied = f"; tied: {', '.join(decision.tied)}" if decision.tied else ""
    open_rule = "" if decision.is_final else "; the run's rule decides when all questions are answered"
    return f"{decision.rule} decided for {decision.label}, of scores {scores}{tied}{open_rule}"
