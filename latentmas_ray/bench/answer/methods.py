"""One agent alone, agents that talk in text and latent agents, on the same questions, with the same engine for every
agent that writes text.

Each is measured at several numbers of questions that an agent computes at the same time. Where one takes longer than
another, the parts of its time say where the seconds go.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from latentmas_ray.actors.bench_actor import BenchCluster
from latentmas_ray.bench.answer.questions import Delay
from latentmas_ray.bench.answer.settings import AnswerBenchSettings
from latentmas_ray.bench.machine import Log
from latentmas_ray.config import make_config
from latentmas_ray.errors import ConfigError
from latentmas_ray.models.presets import SHAPES
from latentmas_ray.runs.results import Summary
from latentmas_ray.runs.run_events import QuestionAnswered, RunEvent
from latentmas_ray.system import LatentMAS
from latentmas_ray.units import format_accuracy
from latentmas_ray.vllm.installed import obstacle

_WARM_UP_QUESTIONS = 8


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


def measure_methods(settings: AnswerBenchSettings, progress: Log) -> tuple[MethodFigures, ...]:
    """Measure. Raises what a run raises, and ModelError for a model that answers nothing."""
    if settings.model in SHAPES:
        raise ConfigError("methods", ",".join(settings.methods), "a shape with random weights answers nothing: none")
    figures: list[MethodFigures] = []
    with ExitStack() as stack:
        if settings.runtime == "ray":
            stack.enter_context(BenchCluster(settings.address))  # one for all runs
        for concurrency in settings.concurrency:
            for method in settings.methods:
                figures += _measure(settings, method, concurrency, progress)
    return tuple(figures)


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
        "batch_size": concurrency,
        "decode_batch": concurrency,
        "engine": answer_engine(settings),
        "runtime": settings.runtime,
    }
    if method != "single":
        fields["topology"] = settings.topology
    if method == "latent":
        fields["latent_steps"] = settings.latent_steps
    if settings.runtime == "ray" and settings.address is not None:
        fields["address"] = settings.address
    return fields


def answer_engine(settings: AnswerBenchSettings) -> str:
    """Return the engine of all agents that write text."""
    if settings.answer_engine != "auto":
        return settings.answer_engine
    return "vllm" if settings.runtime == "ray" and obstacle() is None else "transformers"


def _measure(settings: AnswerBenchSettings, method: str, concurrency: int, progress: Log) -> list[MethodFigures]:
    fields = run_fields(settings, method, concurrency)
    answers = _AnswerTimes()
    with LatentMAS(make_config(fields), observer=answers) as mas:
        figures = []
        for task in settings.tasks:
            # Loads the models (tasks may have other agents), allocates caches, selects kernels.
            mas.evaluate(task, limit=min(concurrency, _WARM_UP_QUESTIONS))
            answers.seconds.clear()
            summary = mas.evaluate(task, limit=settings.limit)
            delay = Delay.of(answers.seconds)
            figures.append(method_figures(summary, task, concurrency, fields["engine"], delay))
            rate = f"{figures[-1].questions_per_second:.3g} questions/s"
            right = format_accuracy(figures[-1].accuracy)
            progress(f"{method}, {task}, concurrency {concurrency}: {right}, {rate}")
        return figures


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
