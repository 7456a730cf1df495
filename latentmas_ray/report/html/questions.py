"""The data of all questions for the page: a small index, and details in pieces that the page parses on demand."""

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentmas_ray.engine.diagnostics.trace import AgentTrace, Alarm, Thought
from latentmas_ray.report.html.entries import Group, Member
from latentmas_ray.report.inspect import describe_alarm
from latentmas_ray.runs.decisions.describe import describe_decision, outcome_of_vote
from latentmas_ray.runs.results import Answer

PIECE_SIZE = 40  # questions in one piece of details
_MAX_TITLE_CHARS = 110
_DIGITS = 4
_RIGHT, _WRONG, _NOT_GRADED, _FAILED, _ABSENT = "10-fx"
_CUT_OFF = {"max_new_tokens": "cut off at max_new_tokens", "positions": "cut off at the model’s last position"}


@dataclass(frozen=True, kw_only=True)
class PageLimits:
    """Limits on the data in the page. None: no limit."""

    text_chars: int | None = None  # longer texts lose their middle
    traced: int | None = None  # the number of questions of each run that keep their thoughts


def make_index(group: Group) -> dict[str, Any]:
    """Return the data of the list of questions: the runs, and each question's id, beginning, outcome in each run, and
    flags."""
    members = group.members
    answers = [{answer.id: answer for answer in member.run.answers} for member in members]
    failed = [{failure.id for failure in member.run.failures} for member in members]
    alarmed = {name for found in answers for name, answer in found.items() if any(_alarms(answer))}
    rows = []
    for name in question_ids(group):
        outcomes = "".join(_outcome(found.get(name), name in lost) for found, lost in zip(answers, failed, strict=True))
        first = next((found[name] for found in answers if name in found), None)
        title = " ".join(first.question.split()) if first else ""
        shown = title if len(title) <= _MAX_TITLE_CHARS else title[: _MAX_TITLE_CHARS - 1] + "…"
        rows.append([name, shown, outcomes, _flags(name, members, alarmed)])
    return {"title": group.title, "runs": [member.key for member in members], "rows": rows, "piece_size": PIECE_SIZE}


def question_ids(group: Group) -> list[str]:
    """Return the ids of the questions of all runs, in the order of their first occurrence."""
    names = dict.fromkeys(answer.id for member in group.members for answer in member.run.answers)
    return list(names | dict.fromkeys(failure.id for member in group.members for failure in member.run.failures))


def make_pieces(group: Group, limits: PageLimits) -> Iterator[list[dict[str, Any]]]:
    """Yield the details of PIECE_SIZE questions at a time, in the order of the index."""
    names = question_ids(group)
    runs = [_PageRun(member, limits) for member in group.members]
    for start in range(0, len(names), PIECE_SIZE):
        yield [_question(name, runs, limits) for name in names[start : start + PIECE_SIZE]]


class _PageRun:
    """One run by question."""

    def __init__(self, member: Member, limits: PageLimits) -> None:
        self.key = member.key
        self.answers = {answer.id: answer for answer in member.run.answers}
        self.failures = {failure.id: failure for failure in member.run.failures}
        self.traces = member.run.traces
        self.keep_thoughts = frozenset(list(self.traces)[: limits.traced])


def _question(name: str, runs: Sequence[_PageRun], limits: PageLimits) -> dict[str, Any]:
    first = next((run.answers[name] for run in runs if name in run.answers), None)
    shown: dict[str, Any] = {}
    for run in runs:
        if name in run.answers:
            shown[run.key] = _details(run, run.answers[name], limits)
        elif name in run.failures:
            failure = run.failures[name]
            shown[run.key] = {"error": _shorten(f"{failure.agent}: {failure.error}", limits)}
    gold = None if first is None or first.gold is None else _shorten(first.gold, limits)
    return {"question": _shorten(first.question, limits) if first else "", "gold": gold, "runs": shown}


def _outcome(answer: Answer | None, has_failed: bool) -> str:
    if answer is None:
        return _FAILED if has_failed else _ABSENT
    return _NOT_GRADED if answer.correct is None else _RIGHT if answer.correct else _WRONG


def _flags(name: str, members: Sequence[Member], alarmed: Container[str]) -> str:
    """Return `t` if the question is traced, and `a` if it has an alarm."""
    traces = [member.run.traces[name] for member in members if name in member.run.traces]
    agents = [agent for trace in traces for agent in trace.agents.values()]
    has_alarm = any(not alarm.note for agent in agents for alarm in agent.alarms)
    return ("t" if traces else "") + ("a" if has_alarm or name in alarmed else "")


def _alarms(answer: Answer) -> Iterator[Alarm]:
    """Return the alarms that a guard raised."""
    return (alarm for use in answer.agents.values() for alarm in use.alarms)


def _details(run: _PageRun, answer: Answer, limits: PageLimits) -> dict[str, Any]:
    trace = run.traces.get(answer.id)
    keep_thoughts = answer.id in run.keep_thoughts
    agents = []
    for name, use in answer.agents.items():
        traced = trace.agents.get(name) if trace else None
        alarms = dict.fromkeys((*(traced.alarms if traced else ()), *use.alarms))
        agents.append(
            {
                "name": name,
                "tokens": [use.prompt_tokens, use.latent_steps, use.output_tokens],
                "seconds": {phase: _round(taken) for phase, taken in use.seconds.items() if taken},
                **({"own_seconds": True} if use.has_own_seconds else {}),
                "read": [
                    [found.source, found.num_bytes, _round(found.seconds), _round(found.exposed_seconds)]
                    for found in answer.transfers
                    if found.reader == name
                ],
                "alarms": [_alarm(alarm) for alarm in alarms if not alarm.note],
                "notes": [describe_alarm(alarm) for alarm in alarms if alarm.note],
                **({"cut_off": _CUT_OFF[use.cut_off]} if use.is_cut_off and use.cut_off else {}),
                **({} if (text := use.text or _votes_text(answer, name)) is None else {"text": _shorten(text, limits)}),
                **({} if traced is None else _traced(traced, limits, keep_thoughts=keep_thoughts)),
            }
        )
    return {
        "answer": _shorten(answer.answer, limits),
        "prediction": None if answer.prediction is None else _shorten(answer.prediction, limits),
        "tokens": [answer.prompt_tokens, answer.latent_tokens, answer.output_tokens],
        "seconds": _round(answer.seconds),
        "agents": agents,
    }


def _votes_text(answer: Answer, agent: str) -> str | None:
    """Return all answers of an agent, if it has several or others answer too, each under a line about it."""
    if answer.decision is None:
        return None
    parts = [describe_decision(answer.decision)]
    for vote in answer.votes:
        if vote.agent == agent:
            weight = answer.decision.weights.get(vote.voter)
            told = [f"sample {vote.sample}", f"seed {vote.seed}", outcome_of_vote(vote)]
            told += [] if weight is None else [f"weight {weight:.3g}"]
            parts.append(f"[{', '.join(told)}]\n{vote.error or vote.answer}")
    return "\n\n".join(parts)


def _traced(trace: AgentTrace, limits: PageLimits, *, keep_thoughts: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "prompt": _shorten(trace.prompt, limits),
        "reads": [[source, _round(trace.effects.get(source))] for source in trace.reads],
    }
    if keep_thoughts and trace.thoughts:
        found["thoughts"] = [_thought(thought) for thought in trace.thoughts]
    return found


def _thought(thought: Thought) -> list[Any]:
    """Return [tokens with their probabilities, entropy, norm, distance, nearest token]; unknown values are None. A list
    and not an object, because there are thousands of them."""
    shares = [[token, _round(share)] for token, share in thought.tokens]
    entropy = thought.entropy if thought.tokens else None
    norm, distance = (thought.norm, thought.distance) if thought.is_finite else (None, None)
    return [shares, *(_round(value) for value in (entropy, norm, distance)), thought.nearest]


def _alarm(alarm: Alarm) -> Mapping[str, Any]:
    return {"step": alarm.step, "text": describe_alarm(alarm)}


def _shorten(text: str, limits: PageLimits) -> str:
    """Return the beginning and the end of a long text: the question and the answer are usually there."""
    if limits.text_chars is None or len(text) <= limits.text_chars:
        return text
    half = limits.text_chars // 2
    return f"{text[:half]} […{len(text) - 2 * half:,} characters…] {text[-half:]}"


def _round(value: float | None) -> float | None:
    """Round to a few digits; None for a value that is not finite, which JSON cannot represent."""
    return float(f"{value:.{_DIGITS}g}") if value is not None and math.isfinite(value) else None
