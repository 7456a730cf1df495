"""Every rule on the ballots: accuracies, paired differences, estimated accuracies, and how far agents agree."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from latentmas_ray.errors import ConfigError
from latentmas_ray.report.voted.ballots import Ballot, Ballots
from latentmas_ray.stats import PairedDifference, accuracy_interval, compare_paired
from latentmas_ray.voting.accuracies import FittedRule, fit_rule
from latentmas_ray.voting.correlation import PairAgreement, effective_votes, pair_agreements
from latentmas_ray.voting.rules import RULES, RuleName, VoteDecision

_MAX_NAMED = 3  # pairs in a warning


@dataclass(frozen=True, kw_only=True)
class VoterFigures:
    """One voter: how often it is right, and how often the rules take it to be."""

    name: str
    model: str | None
    num_votes: int
    accuracy: float | None  # of all judged questions; one without a vote is wrong. None without golds
    accuracy_interval: tuple[float, float] | None  # 95 %
    share_right: float | None  # of its votes, which is what the rules estimate
    estimates: Mapping[RuleName, float]


@dataclass(frozen=True, kw_only=True)
class RuleFigures:
    """One rule on the judged questions. Differences are of the rule and the other, on the same questions."""

    rule: RuleName
    accuracy: float | None  # None without golds
    accuracy_interval: tuple[float, float] | None  # 95 %
    to_majority: PairedDifference | None
    to_best: PairedDifference | None  # the best single voter
    num_ties: int  # decided by the digest of the question
    num_undecided: int  # without any vote
    note: str | None


@dataclass(frozen=True, kw_only=True)
class VoteReport:
    """The result of a vote."""

    task: str
    num_questions: int
    num_judged: int  # questions that the figures are about
    num_calibrated: int  # questions whose golds rule ow has seen, and which are not judged
    num_options: str  # K
    seed: int
    best: str | None  # the most accurate voter on the judged questions
    voters: tuple[VoterFigures, ...]
    rules: tuple[RuleFigures, ...]
    pairs: tuple[PairAgreement, ...]  # largest excess first
    effective_votes: float | None  # None where accuracies are not known, or explain all agreement: always right
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return an object for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class VoteOutcome:
    """A report, and what it is made of."""

    report: VoteReport
    judged: tuple[Ballot, ...]
    rules: Mapping[RuleName, FittedRule]
    decisions: Mapping[RuleName, tuple[VoteDecision, ...]]  # in the order of `judged`


def vote_on(ballots: Ballots, *, calibrate: int | None = None, seed: int = 0) -> VoteOutcome:
    """Decide all questions by every rule.

    With `calibrate`, rule ow learns from the golds of so many questions, drawn with the seed, and only the others are
    judged. The other rules see the votes on all questions, and no gold. Raises ConfigError unless that leaves graded
    questions to judge.
    """
    calibrated = _drawn(ballots.ballots, calibrate, seed)
    golds = {one.question.id: one.gold for one in calibrated if one.gold is not None}
    judged = tuple(one for one in ballots.ballots if one.question.id not in golds)
    rules = {
        rule: fit_rule(ballots.votes, rule, golds=golds, seed=seed) for rule in RULES if rule != "ow" or calibrated
    }
    decisions = {name: tuple(rule.decide(one.votes) for one in judged) for name, rule in rules.items()}
    voters = tuple(_voter_figures(voter.name, voter.model, judged, rules) for voter in ballots.voters)
    best = max(
        (voter for voter in voters if voter.accuracy is not None), key=lambda voter: voter.accuracy or 0.0, default=None
    )
    pairs = _pairs(judged, voters, rules)
    report = VoteReport(
        task=ballots.task,
        num_questions=len(ballots.ballots),
        num_judged=len(judged),
        num_calibrated=len(calibrated),
        num_options=ballots.num_options,
        seed=seed,
        best=None if best is None else best.name,
        voters=voters,
        rules=tuple(_rule_figures(rules[name], decisions, judged, best) for name in rules),
        pairs=pairs,
        effective_votes=effective_votes(pairs, len(voters)),
        notes=(*ballots.notes, *_notes(ballots, judged, voters, pairs)),
    )
    return VoteOutcome(report=report, judged=judged, rules=rules, decisions=decisions)


def _drawn(ballots: Sequence[Ballot], calibrate: int | None, seed: int) -> list[Ballot]:
    """Return the ballots whose golds rule ow may see, in their order."""
    if calibrate is None:
        return []
    graded = [one for one in ballots if one.gold is not None]
    if not 1 <= calibrate < len(graded):
        expected = f"{len(graded)} questions have a gold; it must leave at least one of them to judge"
        raise ConfigError("calibrate", calibrate, expected if calibrate > 0 else f"it must be at least 1; {expected}")
    chosen = {one.question.id for one in random.Random(seed).sample(graded, calibrate)}
    return [one for one in graded if one.question.id in chosen]


def _voter_figures(
    name: str, model: str | None, judged: Sequence[Ballot], rules: Mapping[RuleName, FittedRule]
) -> VoterFigures:
    graded = [one for one in judged if one.gold is not None]
    right = _right(graded, [one.votes.votes.get(name) for one in graded])
    num_graded_votes = sum(name in one.votes.cast for one in graded)
    return VoterFigures(
        name=name,
        model=model,
        num_votes=sum(name in one.votes.cast for one in judged),
        accuracy=sum(right) / len(right) if right else None,
        accuracy_interval=accuracy_interval(right) if right else None,
        share_right=sum(right) / num_graded_votes if num_graded_votes else None,
        estimates={rule: fitted.accuracies[name] for rule, fitted in rules.items() if fitted.accuracies is not None},
    )


def _rule_figures(
    fitted: FittedRule,
    decisions: Mapping[RuleName, Sequence[VoteDecision]],
    judged: Sequence[Ballot],
    best: VoterFigures | None,
) -> RuleFigures:
    own = decisions[fitted.rule]
    is_graded = [one.gold is not None for one in judged]
    graded = [one for one in judged if one.gold is not None]

    def right_by(rule: RuleName) -> list[float]:
        labels = [decision.label for decision, has_gold in zip(decisions[rule], is_graded, strict=True) if has_gold]
        return _right(graded, labels)

    right = right_by(fitted.rule)
    best_right = _right(graded, [one.votes.votes.get(best.name) for one in graded]) if best else []
    return RuleFigures(
        rule=fitted.rule,
        accuracy=sum(right) / len(right) if right else None,
        accuracy_interval=accuracy_interval(right) if right else None,
        to_majority=compare_paired(right_by("majority"), right) if right and fitted.rule != "majority" else None,
        to_best=compare_paired(best_right, right) if right else None,
        num_ties=sum(decision.is_tie for decision in own),
        num_undecided=sum(decision.label is None for decision in own),
        note=fitted.note,
    )


def _right(graded: Sequence[Ballot], labels: Sequence[str | None]) -> list[float]:
    """Return 1 or 0 for each question; no label is wrong."""
    return [float(label == one.gold) for one, label in zip(graded, labels, strict=True)]


def _pairs(
    judged: Sequence[Ballot], voters: Sequence[VoterFigures], rules: Mapping[RuleName, FittedRule]
) -> tuple[PairAgreement, ...]:
    """Return the agreement of voters, explained by their true accuracies, or by those that rule ow-l has estimated.
    Empty if neither is known."""
    true = {voter.name: voter.share_right for voter in voters}
    if all(share is not None for share in true.values()):
        known: Mapping[str, float] = {name: share for name, share in true.items() if share is not None}
    elif rules["ow-l"].note is None and rules["ow-l"].accuracies is not None:
        known = rules["ow-l"].accuracies
    else:
        return ()
    return pair_agreements([one.votes for one in judged], known)


def _notes(
    ballots: Ballots, judged: Sequence[Ballot], voters: Sequence[VoterFigures], pairs: Sequence[PairAgreement]
) -> Iterator[str]:
    """Yield what limits the figures."""
    without = sum(one.gold is None for one in judged)
    if without == len(judged):
        yield "no question has a gold, so it is not known which decisions are right"
    elif without:
        yield f"{without} of {len(judged)} questions have no gold; they are decided and not judged"
    missing = sum(len(one.votes.votes) - len(one.votes.cast) for one in judged)
    if missing:
        yield f"{missing} of {len(judged) * len(voters)} answers are missing or cannot be read: they are no votes"
    if regraded := sum(_is_graded_otherwise(one) for one in judged):
        yield f"questions with answers that their runs graded otherwise: {regraded}; latentmas grade grades them again"
    shared = [
        (one.name, other.name) for one, other in combinations(voters, 2) if one.model and one.model == other.model
    ]
    if shared:
        models = Counter(voter.model for voter in voters if voter.model)
        said = ", ".join(f"{count} of {model}" for model, count in models.items() if count > 1)
        yield f"agents share a base model ({said}): their errors are not independent, which all rules assume"
    if notable := [pair for pair in pairs if pair.is_notable]:
        named = "; ".join(
            f"{pair.one} and {pair.other} on {100 * pair.agreement:.1f} % of the questions, of which their accuracies "
            f"explain {100 * pair.expected:.1f}"
            for pair in notable[:_MAX_NAMED]
        )
        num_more = max(0, len(notable) - _MAX_NAMED)
        more = f"; and {num_more} more {'pair' if num_more == 1 else 'pairs'}" if num_more else ""
        yield f"agents agree more than their accuracies explain: {named}{more}"


def _is_graded_otherwise(ballot: Ballot) -> bool:
    return any(
        row.correct is not None and ballot.gold is not None and row.correct != (ballot.votes.votes[name] == ballot.gold)
        for name, row in ballot.answers.items()
    )
