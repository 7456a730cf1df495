"""The votes of a run and of a question, where it has several answers."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.cli.render.text import shorten
from latentmas_ray.runs.decisions.describe import describe_decision, outcome_of_vote
from latentmas_ray.units import format_accuracy

if TYPE_CHECKING:
    from latentmas_ray.runs.decisions.figures import VoteFigures
    from latentmas_ray.runs.results import Answer

_MAX_CHARS = 60


def vote_rows(runs: "Sequence[VoteFigures | None]") -> Iterator[tuple[str, str]]:
    """Yield how a run, or one run per seed, made one answer of several; nothing for runs with one answer."""
    voted = [run for run in runs if run is not None]
    if not voted:
        return
    first = voted[0]
    answers = sum(one.answers for one in first.agents.values())
    num_tied, num_open = sum(run.num_tied for run in voted), sum(run.num_undecided for run in voted)
    said = [f"{first.rule}, {answers / first.num_questions:g} answers to a question", f"{num_tied} tied"]
    yield "decided by", ", ".join(said + ([f"{num_open} without a vote"] if num_open else []))
    own = []
    for name in first.agents:
        found = [run.agents[name] for run in voted if name in run.agents]
        graded, right = sum(one.graded for one in found), sum(one.right for one in found)
        missing = sum(one.no_vote for one in found)
        accuracy = format_accuracy(right / graded) if graded else "not graded"
        own.append(f"{name} {accuracy}" + (f" ({missing} no vote)" if missing else ""))
    yield "each answer", ", ".join(own)
    rights = [run.any_right for run in voted if run.any_right is not None]
    if rights:
        yield "any is right", format_accuracy(sum(rights) / len(rights))


def votes_table(answer: "Answer") -> Table:
    """Return a row for each answer to a question."""
    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    for title in ("agent", "sample", "seed"):
        table.add_column(title, no_wrap=True, justify="left" if title == "agent" else "right")
    table.add_column("prediction", overflow="fold")
    table.add_column("weight", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    weights = answer.decision.weights if answer.decision else {}
    for vote in answer.votes:
        weight = weights.get(vote.voter)
        table.add_row(
            vote.agent,
            str(vote.sample),
            str(vote.seed),
            Text(shorten(vote.error or vote.prediction or "–", _MAX_CHARS)),
            "–" if weight is None else f"{weight:.3g}",
            outcome_of_vote(vote),
        )
    return table


def votes_view(answer: "Answer") -> "Iterator[Text | Table]":
    """Yield the votes on a question and the decision; nothing where there is one answer."""
    if answer.decision is not None:
        yield votes_table(answer)
        yield Text(describe_decision(answer.decision))
