"""Says how many texts were cut off, by which limit, and what to change."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentmas_ray.runs.results import AgentUse, Answer, Summary

_REASONS = {"max_new_tokens": "at max_new_tokens", "positions": "at the model's last position"}
_HINTS = {
    "max_new_tokens": "raise --max-new-tokens",
    "positions": "use fewer latent steps, shorter prompts or a model with more positions",
}
_MANY = 20  # a warning from more than one in so many on


def cut_off_note(use: "AgentUse") -> str:
    """Return `cut off at max_new_tokens` of one agent's text; empty if it was not cut off."""
    return f"cut off {_REASONS[use.cut_off]}" if use.is_cut_off and use.cut_off in _REASONS else ""


def cut_off_figures(runs: Sequence["Summary"]) -> str:
    """Return `3 of 40 questions: judger 2 at max_new_tokens, …` of a run, or of one per seed; empty if none is."""
    num_cut_off = sum(run.num_cut_off or 0 for run in runs)
    if not num_cut_off:
        return ""
    counts: Counter[tuple[str, str]] = Counter()
    for run in runs:
        for agent, reasons in run.cut_off.items():
            counts.update({(agent, reason): count for reason, count in reasons.items()})
    named = ", ".join(f"{agent} {count} {_REASONS.get(reason, reason)}" for (agent, reason), count in counts.items())
    return f"{num_cut_off} of {sum(run.num_questions for run in runs)} questions: {named}"


def cut_off_warnings(runs: Sequence["Summary"]) -> Iterator[str]:
    """Yield a line if more than one answered question in twenty has a text that was cut off."""
    num_cut_off = sum(run.num_cut_off or 0 for run in runs)
    if not num_cut_off or num_cut_off * _MANY <= sum(run.num_questions - run.num_failed for run in runs):
        return
    reasons = dict.fromkeys(reason for run in runs for counts in run.cut_off.values() for reason in counts)
    hints = "; ".join(_HINTS[reason] for reason in reasons if reason in _HINTS)
    yield f"warning: texts are cut off in {cut_off_figures(runs)}; {hints}"


def cut_off_warning_of(answer: "Answer") -> Iterator[str]:
    """Yield a line for each agent whose text for this one question was cut off."""
    for name, use in answer.agents.items():
        if note := cut_off_note(use):
            yield f"warning: the text of {name} is {note}; {_HINTS[use.cut_off or '']}"
