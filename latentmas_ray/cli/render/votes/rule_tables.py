"""The rules on real votes: their accuracies, those of the voters, and how far voters agree. Readable at 80 columns."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.cli.render.text import printable
from latentmas_ray.units import format_accuracy, format_p_value

if TYPE_CHECKING:
    from latentmas_ray.report.voted.evaluate import RuleFigures, VoteReport, VoterFigures
    from latentmas_ray.stats import PairedDifference
    from latentmas_ray.voting.correlation import PairAgreement

_MAX_PAIRS = 20
_BRACKETS = "In brackets: 95 % intervals over questions. p: paired bootstrap"
_BEST = "The best single agent is chosen by the same questions, so it is likely to be less accurate on others"


def vote_tables(report: "VoteReport") -> RenderableType:
    """Return the rules, the voters with true and estimated accuracies, their agreement, and notes."""
    drawn = f", {report.num_calibrated} more for rule ow to learn from" if report.num_calibrated else ""
    questions = f"{report.num_judged} question{'s' if report.num_judged != 1 else ''}"
    head = f"  {report.task}: {questions}{drawn}, {len(report.voters)} agents, K = {report.num_options}"
    tables = [_rule_table(report.rules)]
    if report.best is not None:
        tables.append(_difference_table(report.rules))
    tables += [_voter_table(report.voters), _estimate_table(report.voters)]
    if report.pairs:
        tables.append(_pair_table(report.pairs[:_MAX_PAIRS]))
    notes = [_BRACKETS] + ([f"{_BEST}: {report.best}"] if report.best is not None else [])
    for why in dict.fromkeys(rule.note for rule in report.rules if rule.note is not None):
        notes.append(f"{', '.join(rule.rule for rule in report.rules if rule.note == why)}: {why}")
    if report.effective_votes is not None:
        notes.append(f"Effective number of votes: {report.effective_votes:.1f} of {len(report.voters)}")
    if not any(rule.rule == "ow" for rule in report.rules):
        notes.append("Rule ow needs reference answers: --calibrate N learns from those of N questions")
    notes = [f"  {note[:1].upper()}{note[1:]}." for note in (*notes, *report.notes)]
    return Group("", Text(printable(head)), *tables, *(Text(printable(note)) for note in notes))


def _rule_table(rules: Sequence["RuleFigures"]) -> RenderableType:
    table = _table("rule")
    for title in ("accuracy", "ties", "undecided"):
        table.add_column(title, justify="right", no_wrap=True)
    for rule in rules:
        accuracy = format_accuracy(rule.accuracy, rule.accuracy_interval)
        table.add_row(rule.rule, accuracy, str(rule.num_ties), str(rule.num_undecided))
    return table


def _difference_table(rules: Sequence["RuleFigures"]) -> RenderableType:
    table = _table("rule")
    for title in ("against majority, points", "p", "against best single", "p"):
        table.add_column(title, justify="right", no_wrap=True)
    for rule in rules:
        table.add_row(rule.rule, *_difference(rule.to_majority), *_difference(rule.to_best))
    return table


def _difference(paired: "PairedDifference | None") -> tuple[str, str]:
    if paired is None:
        return "-", "-"
    low, high = paired.interval
    points = f"{100 * paired.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
    return points, format_p_value(paired.p_value)


def _voter_table(voters: Sequence["VoterFigures"]) -> RenderableType:
    table = _table("agent", wraps=True)
    has_models = any(voter.model is not None for voter in voters)
    if has_models:
        table.add_column("model", overflow="fold")
    for title in ("votes", "accuracy"):
        table.add_column(title, justify="right", no_wrap=True)
    for voter in voters:
        model = [Text(printable(voter.model or "-"))] if has_models else []
        accuracy = format_accuracy(voter.accuracy, voter.accuracy_interval)
        table.add_row(Text(printable(voter.name)), *model, str(voter.num_votes), accuracy)
    return table


def _estimate_table(voters: Sequence["VoterFigures"]) -> RenderableType:
    """Return, in percent of an agent's votes, how many are right and how many each rule takes to be right."""
    table = _table("% of its votes right", wraps=True)
    rules = list(voters[0].estimates)
    for title in ("true", *(f"by {rule}" for rule in rules)):
        table.add_column(title, justify="right", no_wrap=True)
    for voter in voters:
        true = "-" if voter.share_right is None else f"{100 * voter.share_right:.1f}"
        estimates = (f"{100 * voter.estimates[rule]:.1f}" for rule in rules)
        table.add_row(Text(printable(voter.name)), true, *estimates)
    return table


def _pair_table(pairs: Sequence["PairAgreement"]) -> RenderableType:
    table = _table("agents", wraps=True)
    for title in ("questions", "agree, %", "explained, %", "beyond that"):
        table.add_column(title, justify="right", no_wrap=True)
    for pair in pairs:
        table.add_row(
            Text(printable(f"{pair.one}, {pair.other}")),
            str(pair.num_questions),
            f"{100 * pair.agreement:.1f}",
            f"{100 * pair.expected:.1f}",
            "-" if pair.excess is None else f"{pair.excess:+.2f}" + (" *" if pair.is_notable else ""),
        )
    return table


def _table(first: str, *, wraps: bool = False) -> FittedTable:
    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(first, style="bold", no_wrap=not wraps, overflow="fold")
    return table
