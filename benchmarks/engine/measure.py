"""Measures the speed of one engine against the straightforward loop (`benchmarks/engine/baseline.py`) in the same run.

Each side has a process of its own with its own copy of the model, so that neither profits from memory that the other
has touched; they run in turn, A B A B …, so that a machine whose speed drifts slows both. Ratios are taken pair by
pair, and medians are what is reported.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks.engine.settings import EngineBenchSettings
from benchmarks.engine.sides import serve
from latentmas_ray.bench.machine import Log
from latentmas_ray.bench.side_process import SideProcess
from latentmas_ray.models import check_name, choose_device
from latentmas_ray.models.presets import SHAPES

PHASES = ("absorb", "prefill", "think", "decode", "emit")


@dataclass(frozen=True, kw_only=True)
class SideFigures:
    """Medians over the repeats of one side; seconds are those of a whole chain over one batch."""

    seconds: float
    phases: dict[str, float]
    seconds_per_latent_step: float
    seconds_per_decoded_token: float  # one step of the whole batch
    extra_bytes: int  # peak memory above the loaded model


@dataclass(frozen=True, kw_only=True)
class BatchFigures:
    """Both sides at one batch size."""

    batch_size: int
    engine: SideFigures
    baseline: SideFigures
    speedup: float  # median of the pairs' baseline seconds / engine seconds
    memory_ratio: float  # engine's extra memory / baseline's


@dataclass(frozen=True, kw_only=True)
class EngineBench:
    """The result of one run."""

    settings: EngineBenchSettings
    machine: str
    batches: tuple[BatchFigures, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(settings: EngineBenchSettings, progress: Log) -> EngineBench:
    """Measure. Raises ModelError for a device or a model that is not there, RunError if a side fails."""
    choose_device(settings.device)
    if settings.model not in SHAPES:
        check_name(settings.model)
    with SideProcess("engine", serve, settings) as engine, SideProcess("baseline", serve, settings) as baseline:
        machine = engine.receive()
        baseline.receive()
        batches = []
        for batch_size in settings.batch_sizes:
            pairs = []
            for repeat in range(settings.repeats):
                pairs.append((engine.ask(batch_size), baseline.ask(batch_size)))
                ours, theirs = (sum(side["seconds"].values()) for side in pairs[-1])
                progress(
                    f"batch {batch_size}, {repeat + 1} of {settings.repeats}: engine {ours:.2f} s, loop {theirs:.2f} s"
                )
            batches.append(_compare(batch_size, pairs, settings))
        return EngineBench(settings=settings, machine=machine, batches=tuple(batches))


def _compare(
    batch_size: int, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], settings: EngineBenchSettings
) -> BatchFigures:
    engine, baseline = (_figures([pair[index] for pair in pairs], settings) for index in (0, 1))
    ratios = [sum(theirs["seconds"].values()) / sum(ours["seconds"].values()) for ours, theirs in pairs]
    return BatchFigures(
        batch_size=batch_size,
        engine=engine,
        baseline=baseline,
        speedup=median(ratios),
        memory_ratio=engine.extra_bytes / max(1, baseline.extra_bytes),
    )


def _figures(runs: Sequence[dict[str, Any]], settings: EngineBenchSettings) -> SideFigures:
    phases = {phase: median(run["seconds"].get(phase, 0.0) for run in runs) for phase in PHASES}
    return SideFigures(
        seconds=median(sum(run["seconds"].values()) for run in runs),
        phases=phases,
        seconds_per_latent_step=phases["think"] / max(1, settings.num_agents * settings.latent_steps),
        seconds_per_decoded_token=phases["decode"] / settings.max_new_tokens,
        extra_bytes=int(median(run["extra_bytes"] for run in runs)),
    )
