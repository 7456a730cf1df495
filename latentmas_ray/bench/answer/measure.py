"""Measures engines that write texts, then the methods on the same questions."""

from dataclasses import asdict, dataclass
from typing import Any

from latentmas_ray.bench.answer.engines import TextSpeedFigures, measure_engines
from latentmas_ray.bench.answer.methods import MethodFigures, measure_methods
from latentmas_ray.bench.answer.settings import AnswerBenchSettings
from latentmas_ray.bench.answer.sides import num_threads
from latentmas_ray.bench.machine import Log, processor


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
    """Measure the chosen engines and methods. Raises what `measure_engines` and `measure_methods` raise."""
    engines = () if settings.engines == () else measure_engines(settings, progress)
    methods = measure_methods(settings, progress) if settings.methods else ()
    threads = num_threads(settings)
    return AnswerBench(
        settings=settings,
        machine=f"{processor()}, {threads} thread{'s' if threads > 1 else ''}",
        engines=engines,
        methods=methods,
    )
