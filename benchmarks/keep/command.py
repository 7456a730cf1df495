"""`python -m benchmarks keep`: flags, and the figures as a table and a picture."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.keep.settings import KeepBenchSettings
from latentmas_ray.errors import ConfigError

_DEFAULTS = KeepBenchSettings()


def keep(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="of the runs; those that are there are continued")],
    model: Annotated[str, typer.Option(metavar="tiny|FOLDER|HUB_ID", help="of all agents")] = _DEFAULTS.model,
    task: Annotated[str, typer.Option(metavar="notes|facts|FILE.jsonl", help="the questions")] = _DEFAULTS.task,
    topology: Annotated[str, typer.Option(metavar="NAME|FILE.yaml", help="the agents")] = _DEFAULTS.topology,
    dtype: Annotated[str, typer.Option(metavar="auto|float32|bfloat16", help="of KV")] = _DEFAULTS.dtype,
    questions: Annotated[int, typer.Option(help="how many", min=1)] = _DEFAULTS.questions,
    shares: Annotated[
        str, typer.Option("--keep", metavar="SHARE,…", help="of the prompts' positions")
    ] = "1,0.75,0.5,0.25,0.125",
    codecs: Annotated[str, typer.Option(metavar="CODEC,…", help="none, bf16, int8, int4")] = "none,int8,int4",
    by: Annotated[
        str, typer.Option(metavar="WHO,…", help="who chooses: prompt, thoughts, reader, random")
    ] = "prompt,reader,random",
    places: Annotated[
        str, typer.Option(metavar="PLACE,…", help="also only these: numbers, names+numbers, facts, prompts")
    ] = "",
    layers: Annotated[str, typer.Option(metavar="shared|own", help="what layers keep")] = _DEFAULTS.layers,
    latent_steps: Annotated[int, typer.Option(help="of each latent agent", min=0)] = _DEFAULTS.latent_steps,
    batch_size: Annotated[int, typer.Option(help="questions in one batch", min=1)] = _DEFAULTS.batch_size,
    max_new_tokens: Annotated[int, typer.Option(help="of an answer", min=1)] = _DEFAULTS.max_new_tokens,
    seed: Annotated[int, typer.Option(help="of the generated notes", min=0)] = _DEFAULTS.seed,
    no_run: Annotated[
        bool, typer.Option("--no-run", help="only the table and curve of what is complete there")
    ] = False,
) -> None:
    """Measure accuracy and pairing gain over the bytes that agents hand over.

    For each share of positions, chooser and codec two runs: of matched memory, and of another question's. FOLDER gets
    their answers, `table.md` and `curve.png`. Latent agents that read no other agent compute their memory once for all
    codecs; of others each run is an output folder.
    """
    settings = KeepBenchSettings(
        model=model,
        task=task,
        topology=topology,
        dtype=dtype,
        questions=questions,
        keep=_shares(shares),
        codecs=tuple(codecs.split(",")),
        by=tuple(by.split(",")),
        places=tuple(name for name in places.split(",") if name),
        layers=layers,
        latent_steps=latent_steps,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        seed=seed,
        output=output,
    )
    # torch and transformers: only once the flags are known good
    from benchmarks.keep.measure import measure, read_finished
    from benchmarks.keep.tables import draw, table
    from latentmas_ray.bench.plot import check_matplotlib

    check_matplotlib(str(output))
    figures = read_finished(settings) if no_run else measure(settings, lambda line: typer.echo(line, err=True))
    (output / "table.md").write_text(table(figures) + "\n")
    draw(figures, output / "curve.png")
    typer.echo(table(figures))


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError("keep", text, "it must be shares such as 1,0.5,0.25") from None
