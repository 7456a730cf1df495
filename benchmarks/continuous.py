"""`python -m benchmarks continuous`: texts of ragged lengths, written in static batches and continuously.

Both ways use one model in one process. They take turns: after each static batch the other way writes as many tokens, so
a machine whose speed drifts slows both. Lengths are forced, so both write the same numbers of tokens. What a step costs
is measured by its number of rows, which explains the ratio: fewer steps, each with more rows.
"""

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.turn import Sampling
from latentmas_ray.models import LanguageModel, choose_device, load_model
from latentmas_ray.models.cache import BatchCache
from latentmas_ray.models.presets import SHAPES, random_model
from latentmas_ray.writing.continuous import ContinuousEngine
from latentmas_ray.writing.text_engine import TextRequest

_STOP = -1  # no token has this id: the forced end of a text
Way = Callable[[Sequence[int]], Iterator[int]]  # writes texts of these lengths; yields the tokens since it last did


@dataclass(frozen=True, kw_only=True)
class WritingSettings:
    """What is written: `num_questions` texts of `shortest` to `longest` tokens, by `batch_size` questions at once."""

    model: str
    dtype: str
    device: str
    batch_size: int
    num_questions: int
    shortest: int
    longest: int
    prompt_tokens: int  # of the longest prompt; the others are up to a quarter shorter
    repeats: int


@dataclass(frozen=True, kw_only=True)
class WritingFigures:
    """Medians over the repeats of one way to write all texts."""

    wall_seconds: float
    cpu_seconds: float
    tokens_per_second: float
    num_forwards: int
    rows_per_forward: float  # of those that read no prompt


@dataclass(frozen=True, kw_only=True)
class WritingComparison:
    """Both ways on the same lengths. Ratios are medians over the pairs, static / continuous."""

    lengths: str
    num_tokens: int
    static: WritingFigures
    continuous: WritingFigures
    wall_ratio: float
    cpu_ratio: float
    forward_ratio: float
    step_ms_by_rows: dict[int, float]  # of forwards of single tokens, both ways; on a CPU of its time
    read_seconds: tuple[float, ...]  # in forwards that read prompts, static and continuous


@dataclass(frozen=True)
class TimedModel(LanguageModel):
    """Keeps the rows and seconds of each forward; `rows` is 0 where a prompt is read."""

    forwards: list[tuple[int, float]] = field(default_factory=list)

    def hidden_states(self, embeds_NE: Tensor, positions_N: Tensor, cache: BatchCache) -> Tensor:
        is_gpu = embeds_NE.device.type == "cuda"
        clock = time.perf_counter if is_gpu else time.process_time  # which other processes disturb less
        begin = clock()
        hidden_NE = super().hidden_states(embeds_NE, positions_N, cache)
        if is_gpu:
            torch.cuda.synchronize(embeds_NE.device)
        is_step = len(cache.packing.counts) == len(embeds_NE)
        self.forwards.append((len(embeds_NE) if is_step else 0, clock() - begin))
        return hidden_NE


def measure_continuous(settings: WritingSettings, *, as_json: bool) -> None:
    """Measure ragged and equal lengths, and print the figures."""
    lm = _load(settings)
    draw = random.Random(0)
    ragged = [draw.randint(settings.shortest, settings.longest) for _ in range(settings.num_questions)]
    equal = [sum(ragged) // len(ragged)] * len(ragged)
    texts = {
        f"{settings.shortest}–{settings.longest}": ragged,
        f"all {equal[0]}": equal,
    }
    comparisons = [_compare(lm, settings, name, lengths) for name, lengths in texts.items()]
    if as_json:
        print(json.dumps({"settings": asdict(settings), "comparisons": list(map(asdict, comparisons))}, indent=2))
    else:
        _print(settings, comparisons)


def _load(settings: WritingSettings) -> TimedModel:
    if settings.model in SHAPES:
        lm = random_model(settings.model, dtype=settings.dtype, device=str(choose_device(settings.device)))
    else:
        lm = load_model(settings.model, dtype=settings.dtype, device=settings.device)
    lm.chat.stop_ids = frozenset({_STOP})
    return TimedModel(lm.name, lm.model, lm.chat, lm.spec, lm.ranks)


def _prompts(settings: WritingSettings, num_questions: int) -> list[list[int]]:
    draw = random.Random(1)
    shortest = max(1, settings.prompt_tokens * 3 // 4)
    lengths = [draw.randint(shortest, settings.prompt_tokens) for _ in range(num_questions)]
    return [[draw.randrange(3, 259) for _ in range(length)] for length in lengths]


def _static_way(lm: TimedModel, settings: WritingSettings) -> Way:
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(lm, thoughts="identity", cache_dir=Path(folder))

    def write(lengths: Sequence[int]) -> Iterator[int]:
        prompts = _prompts(settings, len(lengths))
        for first in range(0, len(lengths), settings.batch_size):
            part = slice(first, first + settings.batch_size)
            names = [f"q{index}" for index in range(len(lengths))[part]]
            num_new = max(lengths[part])
            session = engine.open(names, num_slots=max(map(len, prompts[part])) + num_new)
            session.prefill(prompts[part])
            session.decode(Sampling(max_new_tokens=num_new), "writer", bounds=lengths[part], is_last=True)
            yield sum(lengths[part])

    return write


def _continuous_way(lm: TimedModel, settings: WritingSettings) -> Way:
    engine = ContinuousEngine(lm, max_running=settings.batch_size)

    def write(lengths: Sequence[int]) -> Iterator[int]:
        waiting = [
            TextRequest(
                key=f"q{index}",
                question_id=f"q{index}",
                agent="writer",
                prompt_ids=tuple(prompt),
                sampling=Sampling(max_new_tokens=length),
            )
            for index, (prompt, length) in enumerate(zip(_prompts(settings, len(lengths)), lengths, strict=True))
        ]
        num_left = len(waiting)
        while num_left:
            while waiting and engine.can_start(waiting[0]):
                engine.start(waiting.pop(0))
            outputs = engine.step()
            num_left -= sum(output.end is not None for output in outputs)
            yield len(outputs)

    return write


def _take_turns(lm: TimedModel, ways: dict[str, Way], lengths: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Write the texts both ways, in turn, and return the seconds and forwards of each. The way that has written fewer
    tokens continues, so slices are as long as a static batch."""
    writers = {name: write(lengths) for name, write in ways.items()}
    runs: dict[str, dict[str, Any]] = {name: {"wall": 0.0, "cpu": 0.0, "forwards": []} for name in ways}
    num_written = dict.fromkeys(ways, 0)
    while writers:
        name = min(writers, key=lambda name: num_written[name])
        stop = min((num_written[other] for other in writers if other != name), default=sum(lengths))
        lm.forwards.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        while num_written[name] <= stop:
            if (count := next(writers[name], None)) is None:
                del writers[name]
                break
            num_written[name] += count
        runs[name]["wall"] += time.perf_counter() - wall
        runs[name]["cpu"] += time.process_time() - cpu
        runs[name]["forwards"] += lm.forwards
    return runs


def _compare(lm: TimedModel, settings: WritingSettings, name: str, lengths: Sequence[int]) -> WritingComparison:
    ways = {"static": _static_way(lm, settings), "continuous": _continuous_way(lm, settings)}
    _take_turns(lm, ways, [4] * settings.batch_size)  # selects kernels, reserves caches
    runs: dict[str, list[dict[str, Any]]] = {"static": [], "continuous": []}
    for repeat in range(settings.repeats):
        order = sorted(ways, reverse=repeat % 2 == 0)
        for way, run in _take_turns(lm, {way: ways[way] for way in order}, lengths).items():
            runs[way].append(run)
    pairs = list(zip(runs["static"], runs["continuous"], strict=True))
    steps: dict[int, list[float]] = {}
    for run in [*runs["static"], *runs["continuous"]]:
        for rows, seconds_of_step in run["forwards"]:
            steps.setdefault(rows, []).append(seconds_of_step)
    static, continuous = (_figures(runs[way], sum(lengths)) for way in ("static", "continuous"))
    return WritingComparison(
        lengths=name,
        num_tokens=sum(lengths),
        static=static,
        continuous=continuous,
        wall_ratio=median(one["wall"] / other["wall"] for one, other in pairs),
        cpu_ratio=median(one["cpu"] / other["cpu"] for one, other in pairs),
        forward_ratio=static.num_forwards / continuous.num_forwards,
        step_ms_by_rows={rows: 1e3 * median(seconds) for rows, seconds in sorted(steps.items()) if rows},
        read_seconds=tuple(
            median(sum(seconds for rows, seconds in run["forwards"] if not rows) for run in runs[way])
            for way in ("static", "continuous")
        ),
    )


def _figures(runs: Sequence[dict[str, Any]], num_tokens: int) -> WritingFigures:
    wall = median(run["wall"] for run in runs)
    forwards = runs[0]["forwards"]
    rows = [count for count, _ in forwards if count]
    return WritingFigures(
        wall_seconds=wall,
        cpu_seconds=median(run["cpu"] for run in runs),
        tokens_per_second=num_tokens / wall,
        num_forwards=len(forwards),
        rows_per_forward=sum(rows) / max(1, len(rows)),
    )


def _print(settings: WritingSettings, comparisons: Sequence[WritingComparison]) -> None:
    console = Console()
    console.print(
        f"{settings.model} in {settings.dtype}, {torch.get_num_threads()} torch threads; {settings.num_questions} "
        f"texts, {settings.batch_size} at once; medians of {settings.repeats}"
    )
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("tokens", "way", "wall s", "CPU s", "tokens/s", "forwards", "rows"):
        table.add_column(title, justify="left" if title in ("tokens", "way") else "right")
    for one in comparisons:
        for way, side in (("static", one.static), ("continuous", one.continuous)):
            numbers = (side.wall_seconds, side.cpu_seconds, side.tokens_per_second)
            cells = [*(f"{number:.1f}" for number in numbers), str(side.num_forwards), f"{side.rows_per_forward:.1f}"]
            table.add_row(one.lengths if way == "static" else "", way, *cells)
        ratios = (one.wall_ratio, one.cpu_ratio, one.wall_ratio, one.forward_ratio)
        table.add_row("", "ratio", *(f"{ratio:.2f} ×" for ratio in ratios), "")
        table.add_section()
    console.print(table)
    for one in comparisons:
        costs = ", ".join(f"{rows}: {milliseconds:.1f}" for rows, milliseconds in one.step_ms_by_rows.items())
        console.print(f"{one.lengths}: milliseconds of a step by rows: {costs}")
        read = " and ".join(f"{seconds:.1f}" for seconds in one.read_seconds)
        console.print(f"{one.lengths}: {read} s in forwards that read prompts, static and continuous")
