"""One agent alone, agents that talk in text and latent agents, on the same questions, with the same engine for every
agent that writes text.

Each is measured at several numbers of questions that an agent computes at the same time. Where one takes longer than
another, the parts of its time say where the seconds go.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

from latentmas_ray.actors.bench_actor import BenchCluster
from latentmas_ray.bench.answer.measured_rows import MeasuredRows
from latentmas_ray.bench.answer.questions import Delay
from latentmas_ray.bench.answer.settings import AnswerBenchSettings
from latentmas_ray.bench.answer.task_questions import TaskQuestions, choose_questions
from latentmas_ray.bench.machine import Log
from latentmas_ray.config import make_config
from latentmas_ray.errors import ConfigError
from latentmas_ray.models.presets import SHAPES
from latentmas_ray.runs.results import Summary
from latentmas_ray.runs.run_events import QuestionAnswered, RunEvent
from latentmas_ray.system.setup import Setup
from latentmas_ray.tasks.question import Question
from latentmas_ray.units import format_accuracy
from latentmas_ray.vllm.installed import obstacle


@dataclass(frozen=True, kw_only=True)
class TimeParts:
    """Seconds per question that agents spent, added up over the agents.

    Agents work at the same time, so the sum may be more than the seconds per question of the run.
    """

    thinking: float  # latent agents: their prompts and thoughts
    hand_over: float  # exposed: a reader waited for memory, and nothing was computed
    prefill: float  # agents that write text: their prompts
    decode: float  # agents that write text

    @property
    def total(self) -> float:
        return self.thinking + self.hand_over + self.prefill + self.decode


@dataclass(frozen=True, kw_only=True)
class MethodFigures:
    """One method on the questions of one task, at one concurrency."""

    method: str
    task: str
    concurrency: int
    engine: str
    num_questions: int
    num_failed: int
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    prompt_tokens: float  # per question, of all agents together
    latent_steps: float
    output_tokens: float
    seconds: float
    questions_per_second: float
    seconds_per_question: float  # of the run: its seconds divided by its questions
    delay: Delay  # from the admission of a question's batch to its answer
    parts: TimeParts


def measure_methods(settings: AnswerBenchSettings, rows: MeasuredRows, progress: Log) -> tuple[MethodFigures, ...]:
    """Measure what `rows` does not have, and add it there. Actors are shared by all rows of a method and task.

    Raises what a run raises, ConfigError for a model that answers nothing and for a task of a single question."""
    if settings.model in SHAPES:
        raise ConfigError("methods", ",".join(settings.methods), "a shape with random weights answers nothing: none")
    questions = {
        task: choose_questions(task, limit=settings.limit, concurrency=settings.concurrency) for task in settings.tasks
    }
    wanted = [
        _MethodRow(method=method, task=task, concurrency=concurrency)
        for method in settings.methods
        for task in settings.tasks
        for concurrency in settings.concurrency
    ]
    found = {row: _from_json(kept) for row in wanted if (kept := rows.find(row_settings(settings, row))) is not None}
    if found:
        progress(f"methods: {len(found)} of {len(wanted)} rows were measured before")
    with ExitStack() as stack:
        if settings.runtime == "ray" and len(found) < len(wanted):
            stack.enter_context(BenchCluster(settings.address))  # one for all runs
        for method in settings.methods:
            missing = [row for row in wanted if row.method == method and row not in found]
            for row, figures in _measure(settings, method, missing, questions, progress):
                found[row] = figures
                rows.add(row_settings(settings, row), asdict(figures))
                right, rate = format_accuracy(figures.accuracy), f"{figures.questions_per_second:.3g} questions/s"
                progress(f"{row}: {right}, {rate} (row {len(found)} of {len(wanted)})")
    return tuple(
        found[_MethodRow(method=method, task=task, concurrency=concurrency)]
        for task in settings.tasks
        for concurrency in settings.concurrency
        for method in settings.methods
    )


@dataclass(frozen=True, kw_only=True)
class _MethodRow:
    """What one row of figures is about."""

    method: str
    task: str
    concurrency: int

    def __str__(self) -> str:
        return f"{self.method}, {self.task}, {self.concurrency} at a time"


def row_settings(settings: AnswerBenchSettings, row: "_MethodRow") -> dict[str, Any]:
    """Return all that the figures of a row depend on, but for the machine."""
    shared = {**run_fields(settings, row.method, row.concurrency), "address": None}
    # Which questions of a task a row has depends on these.
    return {**asdict(row), **shared, "limit": settings.limit, "all": [*settings.concurrency]}


class _AnswerTimes:
    """An observer that keeps the seconds of each answer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_event(self, event: RunEvent) -> None:
        """Keep the seconds of an answer."""
        if isinstance(event, QuestionAnswered):
            self.seconds.append(event.answer.seconds)


def run_fields(settings: AnswerBenchSettings, method: str, concurrency: int) -> dict[str, Any]:
    """Return the configuration of one method's runs: only what has an effect on them."""
    fields: dict[str, Any] = {
        "model": settings.model,
        "method": method,
        "dtype": settings.dtype,
        "device": settings.device,
        "temperature": 0.0,
        **_sizes(settings, concurrency),
        "engine": answer_engine(settings),
        "runtime": settings.runtime,
    }
    if method != "single":
        fields["topology"] = settings.topology
    if method == "latent":
        fields["latent_steps"] = settings.latent_steps
        if settings.thoughts != "realign":  # rows of earlier versions have no rule
            fields["thoughts"] = settings.thoughts
        if settings.keep != 1:  # nor a share
            fields["keep"] = settings.keep
    if settings.runtime == "ray" and settings.address is not None:
        fields["address"] = settings.address
    return fields


def _sizes(settings: AnswerBenchSettings, concurrency: int) -> dict[str, int]:
    """Return the fields that are the concurrency."""
    sizes = {"batch_size": concurrency}
    return {**sizes, "decode_batch": concurrency} if settings.runtime == "ray" else sizes


def answer_engine(settings: AnswerBenchSettings) -> str:
    """Return the engine of all agents that write text."""
    if settings.answer_engine != "auto":
        return settings.answer_engine
    return "vllm" if settings.runtime == "ray" and obstacle() is None else "transformers"


def _measure(
    settings: AnswerBenchSettings,
    method: str,
    wanted: Sequence[_MethodRow],
    questions: Mapping[str, TaskQuestions],
    progress: Log,
) -> Iterator[tuple[_MethodRow, MethodFigures]]:
    """Yield the figures of each row of one method. Models are loaded once for each task, and again only where the same
    questions come again."""
    if not wanted:
        return
    fields = run_fields(settings, method, max(settings.concurrency))
    answers = _AnswerTimes()
    setup = Setup(make_config(fields), None, None, answers, {})
    with closing(setup.live):
        for row in wanted:
            of_task = questions[row.task]
            if of_task.is_repeated:
                setup.live.close()
            changes = {**_sizes(settings, row.concurrency), "task": row.task}
            topology = setup.topology_for(make_config({**fields, **changes}))
            measured = of_task.measured[row.concurrency]
            progress(f"{row}: {len(measured)} questions")
            # Loads the models; actors get as many threads as the measured batches leave them, not the warm-up.
            setup.live.start(topology, -(-len(measured) // min(settings.concurrency)))
            # Allocates caches, selects kernels.
            _run(setup, changes, of_task.warm_up[: row.concurrency])
            answers.seconds.clear()
            summary = _run(setup, changes, measured)
            delay = Delay.of(answers.seconds)
            yield row, method_figures(summary, row.task, row.concurrency, fields["engine"], delay)


def _run(setup: Setup, changes: Mapping[str, Any], questions: Sequence[Question]) -> Summary:
    summary = setup.evaluation(changes, questions).run(None, None, lambda seed: None)
    assert isinstance(summary, Summary), "one seed, one number of steps"
    return summary


def _from_json(row: Mapping[str, Any]) -> MethodFigures:
    interval = row["accuracy_interval"]
    nested = {
        "accuracy_interval": None if interval is None else tuple(interval),
        "delay": Delay(**row["delay"]),
        "parts": TimeParts(**row["parts"]),
    }
    return MethodFigures(**{**row, **nested})


def method_figures(summary: Summary, task: str, concurrency: int, engine: str, delay: Delay) -> MethodFigures:
    """Return the figures of one run."""
    return MethodFigures(
        method=summary.method,
        task=task,
        concurrency=concurrency,
        engine=engine,
        num_questions=summary.num_questions,
        num_failed=summary.num_failed,
        accuracy=summary.accuracy,
        accuracy_interval=summary.accuracy_interval,
        prompt_tokens=summary.prompt_tokens_per_question,
        latent_steps=summary.latent_steps_per_question,
        output_tokens=summary.output_tokens_per_question,
        seconds=summary.seconds,
        questions_per_second=summary.questions_per_second,
        seconds_per_question=summary.seconds / max(1, summary.num_questions),
        delay=delay,
        parts=_parts(summary.agents),
    )


def _parts(agents: Mapping[str, Mapping[str, float]]) -> TimeParts:
    latent = [figures for figures in agents.values() if figures["latent_steps"]]
    writing = [figures for figures in agents.values() if not figures["latent_steps"]]

    def total(chosen: Sequence[Mapping[str, float]], *phases: str) -> float:
        return sum(figures.get(f"{phase}_seconds_per_question", 0.0) for figures in chosen for phase in phases)

    return TimeParts(
        thinking=total(latent, "prefill", "think"),
        hand_over=total([*latent, *writing], "exposed"),
        prefill=total(writing, "prefill"),
        decode=total(writing, "decode"),
    )
