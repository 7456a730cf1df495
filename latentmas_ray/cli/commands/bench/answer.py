"""`latentmas bench answer`: its flags, and its figures as tables."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from latentmas_ray.bench.answer.settings import AnswerBenchSettings, names_in
from latentmas_ray.cli.commands.bench.measure import measure_and_show
from latentmas_ray.cli.options import whole_numbers
from latentmas_ray.cli.unused_flags import tell_unused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from latentmas_ray.bench.answer.measure import AnswerBench


def answer(
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="tiny|FOLDER|HUB_ID|SHAPE", help="SHAPE: engines alone (default: tiny)"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="auto|float32|bfloat16", help="(default: auto)")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", metavar="auto|cpu|cuda[:N]", help="(default: auto)")] = None,
    engines: Annotated[
        str | None,
        typer.Option(
            "--engines", metavar="NAME,…|none", help="static, continuous, vllm (default: all that are installed)"
        ),
    ] = None,
    questions: Annotated[int | None, typer.Option("--questions", metavar="N", help="of the engines (default: 32)")] = (
        None
    ),
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="B", help="questions that an engine writes at the same time (default: 8)"),
    ] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option("--prompt-tokens", metavar="N", help="of the engines' questions (default: 64)")
    ] = None,
    min_new_tokens: Annotated[
        int | None, typer.Option("--min-new-tokens", metavar="N", help="of the shortest possible text (default: 8)")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", metavar="N", help="of the longest possible text (default: 512)")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="of prompts and lengths (default: 42)")] = (
        None
    ),
    repeats: Annotated[int | None, typer.Option("--repeats", metavar="N", help="rounds of engines (default: 3)")] = (
        None
    ),
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", help="of each engine on a CPU (default: OMP_NUM_THREADS, or its cores)"),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", metavar="NAME,…|none", help="single, text, latent (default: all three)"),
    ] = None,
    answer_engine: Annotated[
        str | None,
        typer.Option(
            "--answer-engine",
            metavar="auto|transformers|vllm",
            help="of every agent that writes text (default: auto, which is vLLM if it is installed)",
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="NAME|FILE,…", help="of the methods (default: notes,chain)")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", help="questions of a task (default: 64)")] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency", metavar="C,C,…", help="questions that an agent computes at a time (default: 1,8,32)"
        ),
    ] = None,
    topology: Annotated[
        str | None, typer.Option("--topology", metavar="NAME|FILE.yaml", help="of the methods (default: sequential)")
    ] = None,
    latent_steps: Annotated[
        int | None, typer.Option("--latent-steps", metavar="N", help="of each latent agent (default: 40)")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", metavar="ray|local", help="of the methods (default: ray)")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="ADDR",
            help="HOST:PORT of a running Ray cluster, or auto; without it that of RAY_ADDRESS, else one is started",
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", metavar="DIR", help="folder for figures.json and figures.txt")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure how fast answers are written, and what each method takes for the same questions.

    Engines: texts of seeded lengths, each engine in a process of its own, in turn. Methods: one agent alone, agents
    that talk in text and latent agents, with one engine for every agent that writes text. docs/answers.md explains the
    columns. SHAPE is a well-known model's shape with random weights: qwen3-0.6b, qwen3-1.7b, qwen3-4b, qwen3-8b, ….
    """
    given = {
        "model": model,
        "dtype": dtype,
        "device": device,
        "engines": None if engines is None else names_in(engines),
        "questions": questions,
        "batch_size": batch_size,
        "prompt_tokens": prompt_tokens,
        "min_new_tokens": min_new_tokens,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "repeats": repeats,
        "threads": threads,
        "methods": None if methods is None else names_in(methods),
        "answer_engine": answer_engine,
        "tasks": None if tasks is None else names_in(tasks),
        "limit": limit,
        "concurrency": None if concurrency is None else whole_numbers("concurrency", concurrency, "1,8,32"),
        "topology": topology,
        "latent_steps": latent_steps,
        "runtime": runtime,
        "address": address,
        "output": output,
    }
    tell_unused("bench answer", given)
    settings = AnswerBenchSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    measure_and_show(partial(_measure, settings), _tables, output=settings.output, as_json=as_json)


def _measure(settings: AnswerBenchSettings, say: Callable[[str], None]) -> "AnswerBench":
    from latentmas_ray.bench.answer.measure import run  # torch and Ray: only once the flags are valid

    return run(settings, say)


def _tables(outcome: "AnswerBench") -> "RenderableType":
    from latentmas_ray.cli.render.answer_tables import answer_tables

    return answer_tables(outcome)
