"""Engines that write texts, next to one another: the same questions with texts of seeded lengths.

Each engine has a process of its own; they run in turn, A B C A B C …, so that a machine whose speed drifts slows all.
Ratios are taken round by round, and medians are reported.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from latentmas_ray.bench.answer.questions import Delay, MeasuredTexts
from latentmas_ray.bench.answer.settings import ENGINES, AnswerBenchSettings
from latentmas_ray.bench.answer.sides import serve
from latentmas_ray.bench.machine import Log
from latentmas_ray.bench.side_process import SideProcess, serve_side
from latentmas_ray.errors import ConfigError
from latentmas_ray.models import check_name, choose_device
from latentmas_ray.models.presets import SHAPES, save_random_model
from latentmas_ray.vllm.installed import HOW_TO_INSTALL, obstacle


@dataclass(frozen=True, kw_only=True)
class TextSpeedFigures:
    """One engine: medians over the rounds."""

    engine: str
    device: str
    seconds: float
    cpu_seconds: float
    tokens_per_second: float
    speedup: float  # seconds of the first engine / of this one
    cpu_speedup: float  # the same of CPU seconds
    first_token: Delay
    whole_text: Delay
    peak_bytes: int  # of the engine's whole process, or of the GPU's allocator
    extra_bytes: int  # above what it used before the questions
    same_texts: float  # share of the questions with exactly the first engine's tokens


def measure_engines(settings: AnswerBenchSettings, progress: Log) -> tuple[TextSpeedFigures, ...]:
    """Measure. Raises ModelError and ConfigError for what is not there, RunError if an engine fails."""
    engines = chosen_engines(settings)
    choose_device(settings.device)
    with ExitStack() as stack:
        model = stack.enter_context(_as_folder(settings))
        sides = {name: stack.enter_context(SideProcess(name, serve, settings, model)) for name in engines}
        devices = {name: side.receive() for name, side in sides.items()}
        rounds = []
        for number in range(settings.repeats):
            rounds.append({name: side.ask(None) for name, side in sides.items()})
            taken = ", ".join(f"{name} {texts.seconds:.1f} s" for name, texts in rounds[-1].items())
            progress(f"engines, {number + 1} of {settings.repeats}: {taken}")
    return tuple(text_speed_figures(name, devices[name], rounds) for name in engines)


def chosen_engines(settings: AnswerBenchSettings) -> tuple[str, ...]:
    """Return the engines to measure, in the order of `ENGINES`. Raises ConfigError for one that is not installed."""
    if settings.engines is None:
        return tuple(name for name in ENGINES if name != "vllm" or obstacle() is None)
    if "vllm" in settings.engines and (why := obstacle()) is not None:
        raise ConfigError("engines", "vllm", f"{why}: {HOW_TO_INSTALL}; or leave it out")
    return tuple(name for name in ENGINES if name in settings.engines)


def text_speed_figures(engine: str, device: str, rounds: Sequence[dict[str, MeasuredTexts]]) -> TextSpeedFigures:
    """Return the figures of one engine, next to those of the first one of each round."""
    runs = [one[engine] for one in rounds]
    pairs = [(next(iter(one.values())), one[engine]) for one in rounds]
    reference, own = ({text.key: text.token_ids for text in texts.texts} for texts in pairs[0])
    return TextSpeedFigures(
        engine=engine,
        device=device,
        seconds=median(run.seconds for run in runs),
        cpu_seconds=median(run.cpu_seconds for run in runs),
        tokens_per_second=median(run.num_tokens / run.seconds for run in runs),
        speedup=median(first.seconds / run.seconds for first, run in pairs),
        cpu_speedup=median(first.cpu_seconds / run.cpu_seconds for first, run in pairs),
        first_token=Delay.of([text.first_token_seconds for run in runs for text in run.texts]),
        whole_text=Delay.of([text.seconds for run in runs for text in run.texts]),
        peak_bytes=max(run.peak_bytes for run in runs),
        extra_bytes=max(run.extra_bytes for run in runs),
        same_texts=sum(reference[key] == ids for key, ids in own.items()) / len(own),
    )


@contextmanager
def _as_folder(settings: AnswerBenchSettings) -> Iterator[str]:
    """The model's name; for a shape, a folder with random weights, from which all engines read the same."""
    if settings.model not in SHAPES:
        check_name(settings.model)
        yield settings.model
        return
    with tempfile.TemporaryDirectory(prefix="latentmas-bench-") as folder:
        with SideProcess("model", _save, settings, folder) as saving:  # so that this process keeps no weights
            saving.receive()
        yield folder


def _save(name: str, settings: AnswerBenchSettings, folder: str, connection: Connection) -> None:
    """Save the random model of a shape, then say so."""

    def start() -> tuple[None, Callable[[None], None]]:
        dtype = "bfloat16" if settings.dtype == "auto" else settings.dtype
        device = str(choose_device(settings.device))
        save_random_model(settings.model, Path(folder), dtype=dtype, device=device)
        return None, lambda message: message

    serve_side(name, connection, start)
