"""Makes one answer of several: of one question by majority as soon as it is answered, of a whole run by any rule.

Rules other than majority need the votes on all questions of a run: for accuracies, for how often voters agree, or for
the number of possible answers of open questions. So they decide once, when all of these are in; what they make of a
run depends on its rows alone, not on their order, on batches or on how often it was resumed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from latentmas_ray.config.choices import DecisionRule
from latentmas_ray.runs.controls.adoption import adoption_of
from latentmas_ray.runs.decisions.votes import AnswerVote, RowDecision, voter_name
from latentmas_ray.runs.results import Answer
from latentmas_ray.tasks import Question, grade
from latentmas_ray.voting.accuracies import FittedRule, fit_rule
from latentmas_ray.voting.answers import option_labels
from latentmas_ray.voting.rules import BY_ACCURACY, VoteDecision, decide
from latentmas_ray.voting.votes import QuestionVotes, open_num_options

_LABEL_FREE: Mapping[DecisionRule, DecisionRule] = {"ow": "ow-l"}  # what a rule is without accuracies


@dataclass(frozen=True, kw_only=True)
class DecisionSettings:
    """How a run makes one answer of several."""

    rule: DecisionRule = "majority"
    accuracies: Mapping[str, float] | None = None  # by agent; None: label-free
    seed: int = 0  # decides ties
    votes: bool = False  # whether a question has several answers

    @property
    def is_per_question(self) -> bool:
        """Whether a question can be decided without the others."""
        return self.rule == "majority"

    @property
    def used_rule(self) -> DecisionRule:
        """The rule that is carried out: without accuracies, rule ow estimates them as ow-l does."""
        return self.rule if self.accuracies is not None else _LABEL_FREE.get(self.rule, self.rule)


def decide_one(question: Question, votes: Sequence[AnswerVote], settings: DecisionSettings) -> RowDecision:
    """Return the decision of one question by majority: for a rule that needs all questions, until these are in."""
    cast = _votes_on(question, votes, 2)
    decision = decide(cast, "majority", seed=settings.seed)
    return _row_decision(cast, decision, is_final=settings.is_per_question)


def chosen_vote(votes: Sequence[AnswerVote], label: str | None) -> AnswerVote | None:
    """Return the vote whose text is the answer: the first that counts for the label; without a label the first that has
    a text. None if an option has won that no voter gave."""
    if label is None:
        return next((vote for vote in votes if vote.error is None), None)
    return next((vote for vote in votes if vote.label == label), None)


def decide_run(
    answers: Sequence[Answer], questions: Mapping[str, Question], settings: DecisionSettings
) -> list[Answer]:
    """Return the answers of a run as its rule decides them, in their order; `questions` are by id. Answers without
    votes stay as they are."""
    # In the order of the questions, so that rounding does not depend on which answer came first.
    places = {name: place for place, name in enumerate(questions)}
    voted = sorted((one for one in answers if one.decision is not None), key=lambda one: places[one.id])
    if not voted:
        return list(answers)
    labels = [{vote.voter: vote.label for vote in one.votes} for one in voted]
    num_open = open_num_options(labels)
    ballots = [_votes_on(questions[one.id], one.votes, num_open) for one in voted]
    fitted = _fit(voted, ballots, settings)
    decided = {
        one.id: _decided(one, questions[one.id], _row_decision(ballot, fitted.decide(ballot)))
        for one, ballot in zip(voted, ballots, strict=True)
    }
    return [decided.get(one.id, one) for one in answers]


def _fit(voted: Sequence[Answer], ballots: Sequence[QuestionVotes], settings: DecisionSettings) -> FittedRule:
    """Return the rule with what it needs: accuracies that are given, or what the votes say."""
    rule, given = settings.used_rule, settings.accuracies
    voters = {vote.voter: vote.agent for one in voted for vote in one.votes}
    if given is not None and rule != "majority":
        own = {voter: given[agent] for voter, agent in voters.items()}
        return FittedRule(rule=rule, accuracies=own, seed=settings.seed)
    fitted = fit_rule(ballots, rule, seed=settings.seed)
    if fitted.accuracies is None or rule not in BY_ACCURACY:
        return fitted
    return replace(fitted, accuracies=_of_agents(fitted.accuracies, voters))


def _of_agents(accuracies: Mapping[str, float], voters: Mapping[str, str]) -> dict[str, float]:
    """Give all samples of an agent its mean accuracy: they differ in their seeds alone."""
    own = {agent: [accuracies[voter] for voter, its in voters.items() if its == agent] for agent in voters.values()}
    return {voter: sum(own[agent]) / len(own[agent]) for voter, agent in voters.items()}


def _votes_on(question: Question, votes: Sequence[AnswerVote], num_open: int) -> QuestionVotes:
    """Return the votes on a question; `num_open` is K where any answer is possible, if they do not have more."""
    options = option_labels(question)
    labels = {vote.voter: vote.label for vote in votes}
    num_different = len({label for label in labels.values() if label is not None})
    return QuestionVotes(
        question=question.id,
        votes=labels,
        num_options=len(options) or max(num_open, num_different),
        options=options,
    )


def _row_decision(votes: QuestionVotes, decision: VoteDecision, *, is_final: bool = True) -> RowDecision:
    return RowDecision(
        rule=decision.rule,
        label=decision.label,
        is_final=is_final,
        num_options=votes.num_options,
        weights=decision.weights,
        scores={label: score for label, score in decision.scores.items() if score or label in votes.cast.values()},
        tied=decision.tied if decision.is_tie else (),
    )


def _decided(answer: Answer, question: Question, decision: RowDecision) -> Answer:
    """Return the answer with another decision."""
    vote = chosen_vote(answer.votes, decision.label)
    if vote is not None:
        text, ids, found = vote.answer, vote.answer_token_ids, vote.grade
    else:  # an option that got no vote has won, as all votes count against their own answers
        text, ids = f"\\boxed{{{decision.label}}}", ()
        found = grade(question, text)
    return replace(
        answer,
        answer=text,
        answer_token_ids=ids,
        prediction=found.prediction,
        correct=found.correct,
        numbers_from=found.numbers_from,
        adoption=adoption_of(question.corruption, found),
        decision=decision,
    )


def voters_of(agents: Sequence[str], samples: int) -> list[str]:
    """Return the names of all voters of a run."""
    return [voter_name(agent, sample) for agent in agents for sample in range(samples)]
