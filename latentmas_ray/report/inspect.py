"""Looks up a traced question of a run, and describes alarms."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from latentmas_ray.engine.diagnostics.trace import AgentTrace, Alarm
from latentmas_ray.errors import ConfigError
from latentmas_ray.report.runs import FinishedRun, load_runs
from latentmas_ray.runs.results import Answer
from latentmas_ray.runs.traces import Trace

_MAX_NAMED = 5
_HOW_TO_TRACE = "`latentmas eval … --trace N --output DIR` traces the first N questions"


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A traced question, with its agents in the order of their turns."""

    answer: Answer
    agents: Mapping[str, AgentTrace]


def read_one_run(folder: str) -> FinishedRun:
    """Read the output folder of one run. Raises ConfigError if it has runs of several seeds, and what `load_run`
    raises."""
    first, *others = load_runs(folder)
    if others:
        folders = ", ".join(str(one.folder) for one in (first, *others)[:_MAX_NAMED])
        raise ConfigError("run", folder, f"it has one run per seed; give one of them, such as {folders}")
    return first


def traced_answers(run: FinishedRun) -> list[tuple[Answer, Trace]]:
    """Return the traced questions, in the order of the results. Raises ConfigError if there is none."""
    found = [(answer, run.traces[answer.id]) for answer in run.answers if answer.id in run.traces]
    if not found:
        raise ConfigError("run", str(run.folder), f"it has no traces; {_HOW_TO_TRACE}")
    return found


def inspect_question(run: FinishedRun, question: str, agent: str | None = None) -> Inspection:
    """Return a traced question by id, with all agents or one. Raises ConfigError that suggests similar ids or names."""
    traced = {answer.id: (answer, trace) for answer, trace in traced_answers(run)}
    if question not in traced:
        is_answered = any(answer.id == question for answer in run.answers)
        why = f"it was answered but not traced ({_HOW_TO_TRACE})" if is_answered else "the run has no such question"
        raise ConfigError("question", question, f"{why}; traced are {_some(question, list(traced))}")
    answer, trace = traced[question]
    if agent is None:
        return Inspection(answer=answer, agents=trace.agents)
    if agent not in trace.agents:
        raise ConfigError("agent", agent, f"the agents are {', '.join(trace.agents)}")
    return Inspection(answer=answer, agents={agent: trace.agents[agent]})


def describe_alarm(alarm: Alarm) -> str:
    """Describe an alarm in one line: `norm at thought 3 is 2300, beyond 2000`."""
    place = "" if alarm.step is None else f" at thought {alarm.step}"
    if alarm.kind == "not-finite" and alarm.step is None:
        return "not finite: the memory of its prompt"
    if alarm.kind == "not-finite":
        return f"not finite: {alarm.value:.0f} of the thoughts from thought {alarm.step} on"
    if alarm.kind == "no-effect":
        why = f"; {alarm.note}" if alarm.note else ""
        return f"memory of {alarm.source} changes nothing: {alarm.value:.2g} nats, below {alarm.limit:.2g}{why}"
    if alarm.kind == "repetition":
        return f"thoughts repeat{place}: their cosine is {alarm.value:.4f}, at least {alarm.limit:.4f}"
    if alarm.kind == "entropy":
        return f"entropy jumps by {alarm.value:.4g}{place}, beyond {alarm.limit:.4g}"
    side = "below" if alarm.value < alarm.limit else "beyond"
    return f"{alarm.kind}{place} is {alarm.value:.4g}, {side} {alarm.limit:.4g}"


def _some(wanted: str, names: list[str]) -> str:
    """List the names most similar to `wanted`, or the first ones."""
    near = get_close_matches(wanted, names, n=_MAX_NAMED, cutoff=0.6)
    shown = near or names[:_MAX_NAMED]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
