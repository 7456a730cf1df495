"""`python -m benchmarks threads`: the local runtime with several numbers of threads, while other processes run."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from latentmas_ray import LatentMAS
from latentmas_ray.cli.options import whole_number
from latentmas_ray.placement.free_cores import find_free_cores
from latentmas_ray.runs.environment import describe_processor
from latentmas_ray.tasks import load_questions
from latentmas_ray.units import format_number, format_seconds

CHOSEN = "chosen"  # by the runtime, from the cores that are free
_MAX_THREADS = 1024


@dataclass(frozen=True, kw_only=True)
class ThreadFigures:
    """The medians of one number of threads over all rounds."""

    threads: str  # as asked for
    seconds: float
    cpu_seconds: float  # of the process, all threads
    tokens_per_second: float  # latent steps and output tokens
    same_answers: bool  # as with the first number of threads


def parse_threads(text: str) -> tuple[str, ...]:
    """Return the numbers of threads to measure, such as `1,2,chosen`. Raises ConfigError."""
    names = tuple(part.strip() for part in text.split(","))
    for name in names:
        if name != CHOSEN:
            whole_number("threads", name, least=1, most=_MAX_THREADS)
    return names


def measure_threads(threads: Sequence[str], *, model: str, task: str, limit: int, repeats: int, as_json: bool) -> None:
    """Answer the same questions with each number of threads, one after another, `repeats` times in turn, and print the
    medians. What else runs on the machine is part of the measurement."""
    # As a process has it without OMP_NUM_THREADS: what is chosen is never more.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    cores = find_free_cores()
    rounds = [{name: _measure(name, model, task, limit) for name in threads} for _ in range(repeats)]
    first = rounds[0][threads[0]][3]
    found = [
        ThreadFigures(
            threads=name,
            seconds=median(one[name][0] for one in rounds),
            cpu_seconds=median(one[name][1] for one in rounds),
            tokens_per_second=median(one[name][2] for one in rounds),
            same_answers=all(one[name][3] == first for one in rounds),
        )
        for name in threads
    ]
    machine = f"{describe_processor()}, load {os.getloadavg()[0]:.1f}, {cores}"
    if as_json:
        print(json.dumps({"machine": machine, "threads": [asdict(one) for one in found]}, indent=2))
        return
    table = Table(title=f"{machine}; {model}, {task}, {limit} questions, medians of {repeats}", title_justify="left")
    for title in ("threads", "time", "CPU time", "tokens/s", "answers"):
        table.add_column(title, justify="right")
    for one in found:
        table.add_row(
            one.threads,
            format_seconds(one.seconds),
            format_seconds(one.cpu_seconds),
            format_number(one.tokens_per_second),
            "the same" if one.same_answers else "other",
        )
    Console().print(table)


def _measure(name: str, model: str, task: str, limit: int) -> tuple[float, float, float, list[tuple[int, ...]]]:
    """Return seconds, CPU seconds, tokens per second and the token ids of the answers; without loading the model."""
    number = None if name == CHOSEN else int(name)
    with LatentMAS(model, task=task, runtime="local", threads=number, temperature=0.0, latent_steps=10) as system:
        questions = load_questions(task, limit)
        system.ask(questions[0])  # loads the model
        begin, cpu_begin = time.perf_counter(), time.process_time()
        answers = list(system.map(questions))
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    tokens = sum(answer.latent_tokens + answer.output_tokens for answer in answers)
    return seconds, cpu_seconds, tokens / seconds, [answer.answer_token_ids for answer in answers]
