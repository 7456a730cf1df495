"""Measures engines that write texts, then the methods on the same questions."""

from dataclasses import asdict, dataclass
from typing import Any

from latentmas_ray.bench.answer.engines import TextSpeedFigures, chosen_engines, measure_engines
from latentmas_ray.bench.answer.measured_rows import MeasuredRows
from latentmas_ray.bench.answer.methods import MethodFigures, measure_methods
from latentmas_ray.bench.answer.questions import Delay
from latentmas_ray.bench.answer.settings import AnswerBenchSettings
from latentmas_ray.bench.answer.sides import num_threads
from latentmas_ray.bench.machine import Log, processor

_ENGINE_FIELDS = (
    *("model", "dtype", "device", "questions", "batch_size", "prompt_tokens", "min_new_tokens", "max_new_tokens"),
    *("seed", "repeats", "threads"),
)


@dataclass(frozen=True, kw_only=True)
class AnswerBench:
    """The result of one run."""

    settings: AnswerBenchSettings
    machine: str
    engines: tuple[TextSpeedFigures, ...]
    methods: tuple[MethodFigures, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(settings: AnswerBenchSettings, progress: Log) -> AnswerBench:
    """Measure the chosen engines and methods, but for rows that the output folder has already.

    Raises what `measure_engines` and `measure_methods` raise.
    """
    rows = MeasuredRows(settings.output)
    engines = () if settings.engines == () else _engines(settings, rows, progress)
    methods = measure_methods(settings, rows, progress) if settings.methods else ()
    threads = num_threads(settings)
    return AnswerBench(
        settings=settings,
        machine=f"{processor()}, {threads} thread{'s' if threads > 1 else ''}",
        engines=engines,
        methods=methods,
    )


def _engines(settings: AnswerBenchSettings, rows: MeasuredRows, progress: Log) -> tuple[TextSpeedFigures, ...]:
    """Return the figures of all engines, which are compared round by round and so are one row."""
    of_row = {name: getattr(settings, name) for name in _ENGINE_FIELDS} | {"engines": [*chosen_engines(settings)]}
    if (kept := rows.find(of_row)) is not None:
        progress("engines: measured before")
        return tuple(
            TextSpeedFigures(**{**row, **{name: Delay(**row[name]) for name in ("first_token", "whole_text")}})
            for row in kept
        )
    figures = measure_engines(settings, progress)
    rows.add(of_row, [asdict(one) for one in figures])
    return figures
