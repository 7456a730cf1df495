"""`python -m benchmarks …`: measurements that need a checkout."""

import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.abstractions.command import abstractions
from benchmarks.abstractions.settings import HintBenchSettings
from benchmarks.engine.command import engine
from benchmarks.engine.settings import EngineBenchSettings
from benchmarks.errors.command import errors
from benchmarks.errors.settings import ErrorsBenchSettings
from benchmarks.keep.command import keep
from benchmarks.keep.settings import KeepBenchSettings
from benchmarks.scaling.command import scaling
from benchmarks.scaling.settings import ScalingBenchSettings
from benchmarks.serving.command import equality, faults, first_token, overhead, replicas
from benchmarks.thoughts.command import thoughts
from latentmas_ray.cli.errors import CommandGroup, exit_code_of
from latentmas_ray.cli.options import whole_numbers
from latentmas_ray.config import DEFAULT_LATENT_STEPS
from latentmas_ray.simulation.settings import SimulationSettings

_SETTINGS = (
    EngineBenchSettings,
    ErrorsBenchSettings,
    HintBenchSettings,
    KeepBenchSettings,
    ScalingBenchSettings,
    SimulationSettings,
)
_WITHOUT_SETTINGS = (thoughts, equality, faults, overhead, first_token, replicas)
_OWN_FIELDS = {
    "document",
    "other_batch_size",
    "teams",
    *(name for command in _WITHOUT_SETTINGS for name in signature(command).parameters),
}
_FLAG_FIELDS = frozenset(field.name for kind in _SETTINGS for field in fields(kind)) | _OWN_FIELDS

app = typer.Typer(
    cls=CommandGroup,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("abstractions")(abstractions)
app.command("engine")(engine)
app.command("errors")(errors)
app.command("scaling")(scaling)
app.command("serve-equality")(equality)
app.command("serve-faults")(faults)
app.command("serve-first-token")(first_token)
app.command("serve-overhead")(overhead)
app.command("serve-replicas")(replicas)
app.command("thoughts")(thoughts)
app.command("keep")(keep)


@app.command("threads")
def _threads(
    threads: Annotated[str, typer.Option(metavar="N,N,…|chosen", help="chosen: as the runtime does")] = "1,2,chosen",
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="what is computed")] = "tiny",
    task: Annotated[str, typer.Option(metavar="NAME|FILE", help="its questions")] = "chain",
    limit: Annotated[int, typer.Option(help="questions", min=1)] = 16,
    repeats: Annotated[int, typer.Option(help="rounds of all numbers", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure the local runtime with several numbers of threads, while other processes run."""
    from benchmarks.threads import measure_threads, parse_threads  # needs torch

    measure_threads(parse_threads(threads), model=model, task=task, limit=limit, repeats=repeats, as_json=as_json)


@app.command("continuous")
def _continuous(
    model: Annotated[str, typer.Option(metavar="SHAPE|tiny|FOLDER|HUB_ID", help="what writes")] = "qwen3-0.6b",
    dtype: Annotated[str, typer.Option(metavar="float32|bfloat16", help="of its weights")] = "bfloat16",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="where it runs")] = "auto",
    batch_size: Annotated[int, typer.Option(help="questions at the same time", min=1)] = 8,
    num_questions: Annotated[int, typer.Option(help="texts to write", min=1)] = 64,
    shortest: Annotated[int, typer.Option(help="tokens of the shortest text", min=1)] = 8,
    longest: Annotated[int, typer.Option(help="tokens of the longest text", min=1)] = 512,
    prompt_tokens: Annotated[int, typer.Option(help="tokens of the longest prompt", min=1)] = 64,
    repeats: Annotated[int, typer.Option(help="pairs of measurements", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure texts of ragged lengths, and of equal ones, in static batches and written continuously."""
    from benchmarks.continuous import WritingSettings, measure_continuous  # needs torch

    settings = WritingSettings(
        model=model,
        dtype=dtype,
        device=device,
        batch_size=batch_size,
        num_questions=num_questions,
        shortest=shortest,
        longest=longest,
        prompt_tokens=prompt_tokens,
        repeats=repeats,
    )
    measure_continuous(settings, as_json=as_json)


@app.command("latent-steps")
def _latent_steps(
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="what thinks and answers")] = "tiny",
    task: Annotated[str, typer.Option(metavar="NAME|FILE", help="its questions")] = "notes",
    topology: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="the agents")] = "hierarchical",
    steps: Annotated[int, typer.Option(help="of the full run", min=1)] = 40,
    settings: Annotated[str, typer.Option(metavar="S,S,…", help="of --latent-steps, compared with it")] = "auto,max:40",
    limit: Annotated[int, typer.Option(help="questions", min=1)] = 100,
    batch_size: Annotated[int, typer.Option(help="questions in one batch", min=1)] = 8,
    other_batch_size: Annotated[int, typer.Option(help="of the same runs once more", min=1)] = 1,
    max_new_tokens: Annotated[int, typer.Option(help="of an answer", min=1)] = 64,
    dtype: Annotated[str, typer.Option(metavar="auto|float32|bfloat16", help="of the weights")] = "auto",
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="of the runs; finished ones are read")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure what is saved where questions stop thinking early, and which answers change."""
    from benchmarks.latent_steps import LatentStepsSettings, measure_latent_steps  # needs torch

    chosen = LatentStepsSettings(
        model=model,
        task=task,
        topology=topology,
        steps=steps,
        settings=tuple(settings.split(",")),
        limit=limit,
        batch_size=batch_size,
        other_batch_size=other_batch_size,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
    )
    measure_latent_steps(chosen, output, as_json=as_json)


@app.command("samples")
def _samples(
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="what thinks and answers")] = "tiny",
    task: Annotated[str, typer.Option(metavar="NAME|FILE", help="its questions")] = "chain",
    topology: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="the agents")] = "sequential",
    method: Annotated[str, typer.Option(metavar="single|text|latent", help="how they work together")] = "latent",
    samples: Annotated[int, typer.Option(help="answers to a question", min=2)] = 8,
    limit: Annotated[int, typer.Option(help="questions", min=1)] = 16,
    batch_size: Annotated[int, typer.Option(help="questions in one batch", min=1)] = 8,
    latent_steps: Annotated[int, typer.Option(help="thoughts of each latent agent", min=0)] = DEFAULT_LATENT_STEPS,
    max_new_tokens: Annotated[int, typer.Option(help="of an answer", min=1)] = 64,
    dtype: Annotated[str, typer.Option(metavar="auto|float32|bfloat16", help="of the weights")] = "float32",
    temperature: Annotated[float, typer.Option(help="of the answers", min=0.01)] = 0.6,
    repeats: Annotated[int, typer.Option(help="rounds", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure one run with several samples against as many runs of one."""
    from benchmarks.samples import SamplesSettings, measure_samples  # needs torch

    settings = SamplesSettings(
        model=model,
        task=task,
        topology=topology,
        method=method,
        samples=samples,
        limit=limit,
        batch_size=batch_size,
        latent_steps=latent_steps,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        temperature=temperature,
        repeats=repeats,
    )
    measure_samples(settings, as_json=as_json)


@app.command("vllm-memory")
def _vllm_memory(
    megabytes: Annotated[int, typer.Option(help="size of the memory", min=1)] = 128,
    repeats: Annotated[int, typer.Option(help="measurements of each figure, in turn", min=1)] = 9,
) -> None:
    """Measure how fast memory is written into vLLM's paged cache on a CPU, beside memcpy."""
    from benchmarks.vllm_memory import measure_vllm_memory  # needs torch and vLLM

    measure_vllm_memory(megabytes, repeats)


@app.command("mixed-models")
def _mixed_models(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="gets one run folder for each cell")],
    models: Annotated[str, typer.Option(metavar="NAME,NAME,…", help="models that work together")] = "tiny,small",
    task: Annotated[str, typer.Option(help="what they are asked")] = "notes",
    topology: Annotated[str, typer.Option(help="whose experts hand over")] = "hierarchical",
    answerer: Annotated[str, typer.Option(metavar="AGENT", help="the answering agent there")] = "answerer",
    limit: Annotated[int, typer.Option(help="questions of each cell", min=1)] = 1000,
    latent_steps: Annotated[int, typer.Option(help="thoughts of each expert", min=0)] = 10,
    batch_size: Annotated[int, typer.Option(help="questions in one batch", min=1)] = 50,
    max_new_tokens: Annotated[int, typer.Option(help="of an answer", min=1)] = 160,
    dtype: Annotated[str, typer.Option(metavar="auto|float32|bfloat16", help="of all models")] = "auto",
    teams: Annotated[
        str, typer.Option(metavar="EXPERTS+ANSWERER,…", help="only these of them; without it every pair")
    ] = "",
) -> None:
    """Measure teams of different models with all controls; run again, it continues."""
    from benchmarks.mixed_models import MixedSettings, measure_mixed, mixed_table, split_teams  # needs torch

    settings = MixedSettings(
        models=tuple(models.split(",")),
        task=task,
        topology=topology,
        answerer=answerer,
        limit=limit,
        latent_steps=latent_steps,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        teams=split_teams(teams),
    )
    typer.echo(mixed_table(measure_mixed(settings, folder, lambda line: typer.echo(line, err=True))))


@app.command("mapped-words")
def _mapped_words(
    models: Annotated[str, typer.Option(metavar="NAME,NAME,…", help="models, in both directions")] = "tiny,small",
    questions: Annotated[int, typer.Option(help="of the task notes", min=1)] = 1000,
    batch_size: Annotated[int, typer.Option(help="questions in one batch", min=1)] = 100,
) -> None:
    """Measure the map of thoughts by words that are sent as embeddings."""
    from benchmarks.mapped_words import measure_words, words_table  # needs torch

    pairs = [(writer, reader) for writer in models.split(",") for reader in models.split(",") if writer != reader]
    typer.echo(words_table([one for pair in pairs for one in measure_words(*pair, questions, batch_size)]))


@app.command("links")
def _links(
    tokens: Annotated[int, typer.Option(help="of each segment, of the shape of Qwen3-0.6B", min=1)] = 2048,
    repeats: Annotated[int, typer.Option(help="hand-overs over each link", min=1)] = 9,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure both links of two pretended machines, each next to its own limit, and a run that uses both."""
    from benchmarks.links import measure_links  # needs the tests' machines

    measure_links(tokens, repeats, as_json=as_json)


@app.command("authentication")
def _authentication(
    repeats: Annotated[int, typer.Option(help="measurements of each figure, in turn", min=1)] = 15,
    all_cores: Annotated[bool, typer.Option("--all-cores", help="also the two ends on all cores")] = False,
) -> None:
    """Measure tags of bytes on one core, a chunk's two ends, and a connection's handshake."""
    from benchmarks.authentication import measure_authentication  # needs torch

    measure_authentication(repeats, all_cores=all_cores)


@app.command("simulation")
def _simulation(
    repeats: Annotated[int, typer.Option(help="real runs of each case", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Compare simulated runs with real ones, whose replicas are timers on Ray."""
    from benchmarks.scaling.against_simulation import CASES, compare  # needs torch and Ray

    found = compare(CASES, repeats, lambda line: typer.echo(line, err=as_json))
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in found], indent=2))


@app.command("layouts")
def _layouts(
    gpus: Annotated[int, typer.Option(help="of the cluster at published proportions", min=4)] = 8,
    questions: Annotated[int, typer.Option(help="of each run on that cluster", min=100)] = 320,
    settings: Annotated[int, typer.Option(help="random settings", min=1)] = 20,
    exhaustive: Annotated[bool, typer.Option("--exhaustive", help="also all layouts of three agents there")] = False,
) -> None:
    """Compare what is predicted for layouts with what runs reach on timers, in virtual time."""
    from benchmarks.layouts import (
        exhaustive_figures,
        published_figures,
        random_figures,
        table,
    )  # needs torch

    typer.echo(table(published_figures(gpus, questions)))
    if exhaustive:
        typer.echo(table(exhaustive_figures(gpus, questions // 2)))
    typer.echo(table(list(random_figures(settings, questions // gpus))))


@app.command("clusters")
def _clusters(
    questions: Annotated[
        int, typer.Option(help="on the largest cluster; smaller ones have as many for each node", min=1)
    ] = 100_000,
    nodes: Annotated[str, typer.Option(metavar="N,N,…", help="machines of the clusters")] = "1,2,4,8,16,32,64,128",
    document: Annotated[Path, typer.Option(metavar="FILE.md", help="that gets the tables")] = Path("docs/scaling.md"),
) -> None:
    """Simulate runs on 1 … 128 nodes, and write their figures into a document, with a plot next to it."""
    from benchmarks.scaling.document import check_document, write
    from latentmas_ray.simulation.run import simulate

    settings = SimulationSettings(questions=questions, nodes=whole_numbers("nodes", nodes, "1,2,4"))
    check_document(document)
    outcome = simulate(settings, lambda line: typer.echo(line, err=True))
    write(document, outcome, f"python -m benchmarks clusters --questions {questions} --nodes {nodes}")


@app.callback()
def _benchmarks() -> None:
    """Measure the project itself: each figure against a reference that is measured in the same run."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line `args` (the process's own when None) and return the exit code."""
    arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
    command = typer.main.get_command(app)
    run = lambda: command.main(arguments, prog_name="python -m benchmarks", standalone_mode=False)  # noqa: E731
    return exit_code_of(run, _FLAG_FIELDS)


if __name__ == "__main__":
    sys.exit(main())
