"""`latentmas bench answer`: its flags, and its figures as tables."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentmas_ray.bench.answer.settings import AnswerBenchSettings
from latentmas_ray.cli.commands.bench.measure import measure_and_show
from latentmas_ray.cli.commands.bench.settings_flags import settings_flags
from latentmas_ray.cli.unused_flags import tell_unused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from latentmas_ray.bench.answer.measure import AnswerBench


@settings_flags(AnswerBenchSettings)
def answer(
    given: Mapping[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure how fast answers are written, and what each method takes for the same questions.

    Engines: texts of seeded lengths, each engine in a process of its own, in turn. Methods: one agent alone, agents
    that talk in text and latent agents, with one engine for every agent that writes text. docs/answers.md explains the
    columns. SHAPE is a well-known model's shape: qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, qwen3-14b, qwen3-32b.
    """
    tell_unused("bench answer", {"engines": None, "methods": None, "runtime": None, **given})
    settings = AnswerBenchSettings(**given)
    measure_and_show(partial(_measure, settings), _tables, output=settings.output, as_json=as_json)


def _measure(settings: AnswerBenchSettings, say: Callable[[str], None]) -> "AnswerBench":
    from latentmas_ray.bench.answer.measure import run  # torch and Ray: only once the flags are valid

    return run(settings, say)


def _tables(outcome: "AnswerBench") -> "RenderableType":
    from latentmas_ray.cli.render.bench.answer_tables import answer_tables

    return answer_tables(outcome)
