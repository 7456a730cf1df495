"""Says how thoughts converge: when they repeat, and how many latent steps were not needed."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from latentmas_ray.units import format_number

if TYPE_CHECKING:
    from latentmas_ray.engine.diagnostics.convergence import ConvergenceStats
    from latentmas_ray.runs.results import Answer, Summary


def convergence_rows(summary: "Summary") -> Iterator[tuple[str, str]]:
    """Yield rows of a run's table: how like the one before the last thoughts are, and the steps that were saved."""
    parts = [
        f"{name} {stats.last_cosine:.4f}" + _repeats(stats)
        for name, stats in summary.convergence.items()
        if stats.last_cosine is not None
    ]
    if parts:
        yield "last thoughts", f"cosine with the one before: {', '.join(parts)}"
    bounded = [stats for stats in summary.convergence.values() if stats.allowed_steps is not None]
    if bounded:
        done, allowed = sum(one.steps for one in bounded), sum(one.allowed_steps or 0 for one in bounded)
        share = f"{100 * (1 - done / allowed):.0f} %"
        yield "steps saved", f"{share}: {format_number(done)} of {format_number(allowed)} per question"


def _repeats(stats: "ConvergenceStats") -> str:
    if stats.repeats_from is None:
        return ""
    return f" (repeats from step {stats.repeats_from:.0f} on in {stats.num_repeating} of {stats.num_questions})"


def repetition_notes(runs: Sequence["Summary"]) -> Iterator[str]:
    """Yield a line if thoughts repeat in one of the runs."""
    found = dict.fromkeys(filter(None, (_note(run.convergence) for run in runs)))
    yield from list(found)[:1]


def repetition_note_of(answer: "Answer") -> Iterator[str]:
    """Yield a line if an agent's thoughts on this one question repeat."""
    from latentmas_ray.runs.accounting import convergence_stats

    if note := _note(convergence_stats([answer])):
        yield note


def _note(by_agent: Mapping[str, "ConvergenceStats"]) -> str:
    from latentmas_ray.engine.diagnostics.convergence import describe_repeating

    told = describe_repeating(by_agent)
    return f"note: {told}; --latent-steps auto stops there" if told else ""
