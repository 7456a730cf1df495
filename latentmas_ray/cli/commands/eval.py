"""`latentmas eval`: answer all questions of a task, grade and summarise."""

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from latentmas_ray.cli.errors import EXIT_FAILED
from latentmas_ray.cli.launch import open_system
from latentmas_ray.cli.options import is_given, run_options
from latentmas_ray.cli.render.text import shorten
from latentmas_ray.cli.unused_flags import NOTES
from latentmas_ray.config import MemoryName, RunConfig, is_url
from latentmas_ray.errors import ConfigError, InputError, hide_password
from latentmas_ray.runs.controls.names import check_controls, control_output, parse_controls
from latentmas_ray.seeds import parse_seeds, seed_output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from latentmas_ray.cli.render.progress import ConsoleListener
    from latentmas_ray.runs.controls.summary import ControlsSummary
    from latentmas_ray.runs.multi_seed import SeedsSummary
    from latentmas_ray.runs.results import Summary

_MAX_FAILURE_CHARS = 200


@run_options(starts=("config_file", "preset"))
def evaluate(
    config: RunConfig,
    context: typer.Context,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="S,S,…", help="run once per seed, each in its own folder in DIR")
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option(
            "--controls",
            metavar="[NAME,…]",
            help="run with each of these memory controls on the same actors, and print what memory is worth; alone: "
            "matched,deranged,none",
        ),
    ] = None,
    with_timeline: Annotated[
        bool, typer.Option("--timeline", help="also draw when and where each turn ran: timeline.html in DIR")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON instead of tables")] = False,
) -> None:
    """Answer a task's questions, grade the answers, sum up."""
    from latentmas_ray.cli.render.control_tables import controls_table, single_runs
    from latentmas_ray.cli.render.convergence import repetition_notes
    from latentmas_ray.cli.render.cut_off import cut_off_warnings
    from latentmas_ray.cli.render.progress import listen
    from latentmas_ray.cli.render.run_tables import results_console, seeds_table, summary_table

    several = None if seeds is None else _several(context, seeds, config)
    names = None if controls is None else _controls(context, controls, config)
    if config.trace and config.output is None:
        raise ConfigError("trace", str(config.trace), "traces are written to the output folder; add --output DIR")
    _check_timeline(config, with_timeline=with_timeline)
    summary: Summary | SeedsSummary | ControlsSummary
    table: RenderableType
    with listen(config.method) as listener, open_system(config, listener) as system:
        if names is not None:
            summary = system.evaluate(
                controls=names, seeds=several, on_seed=_announce_seed, on_control=_announce_control
            )
            table, runs = controls_table(summary), [*single_runs(summary)]
        elif several is None:
            summary = system.evaluate()
            table, runs = summary_table(summary), [summary]
        else:
            summary = system.evaluate(seeds=several, on_seed=_announce_seed)
            table, runs = seeds_table(summary), [*summary.runs.values()]
    folders = _folders(config.output, names, several)
    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=2, ensure_ascii=False))
    else:
        results_console().print(table)
    for line in (*cut_off_warnings(runs), *repetition_notes(runs)):
        typer.echo(line, err=True)
    if summary.num_failed:
        _print_failures(listener, summary.num_failed, config.output, names, has_seeds=several is not None)
    typer.echo(_where_results_are(config, has_several=several is not None or names is not None), err=True)
    if with_timeline:
        _write_timelines(folders)
    if summary.num_failed:
        raise typer.Exit(EXIT_FAILED)


def _announce_seed(seed: int) -> None:
    typer.echo(f"seed {seed}", err=True)


def _announce_control(name: str) -> None:
    typer.echo(f"memory {name}", err=True)


def _folders(output: str | None, controls: Sequence[MemoryName] | None, seeds: Sequence[int] | None) -> Iterator[str]:
    """Yield the output folder of each single run."""
    if output is None:
        return
    for folder in [output] if controls is None else [control_output(output, name) for name in controls]:
        yield from [folder] if seeds is None else [seed_output(folder, seed) for seed in seeds]


def _controls(context: typer.Context, text: str, config: RunConfig) -> tuple[MemoryName, ...]:
    """Parse `--controls`. Raises ConfigError, also if `--memory` is given as well."""
    names = parse_controls(text)
    if is_given(context, "memory"):
        raise ConfigError("controls", text, f"it cannot be used with --memory {config.memory}; give one of the two")
    check_controls(names, config)
    return names


def _check_timeline(config: RunConfig, *, with_timeline: bool) -> None:
    """Raise ConfigError for `--timeline` without a folder to write to."""
    if with_timeline and (config.output is None or is_url(config.output)):
        given = "no --output" if config.output is None else hide_password(config.output)
        raise ConfigError("--timeline", given, "it is written to the output folder; add --output DIR, a folder here")


def _write_timelines(folders: Iterable[str]) -> None:
    """Write the timeline of each run. One that cannot be drawn fails no run: a note says why."""
    from latentmas_ray.cli.commands.pages.timeline import write_files

    for folder in folders:
        try:
            write_files(folder)
        except InputError as error:
            typer.echo(f"note: no timeline: {error}", err=True)


def _where_results_are(config: RunConfig, *, has_several: bool) -> str:
    """Return one line: where the results are, and which command shows more of them."""
    output = config.output
    if output is None:
        return "results: only here; --output DIR keeps them for latentmas report and compare"
    if is_url(output):
        return f"results: {hide_password(output)}; next: copy them to a folder for latentmas report and compare"
    folder = shlex.quote(output)
    more = f", latentmas inspect {folder}" if config.trace and not has_several else ""
    return f"results: {folder}; next: latentmas report {folder}{more}"


def _several(context: typer.Context, text: str, config: RunConfig) -> tuple[int, ...]:
    """Parse `--seeds`. Raises ConfigError, also if `--seed` is given as well."""
    seeds = parse_seeds(text)
    if is_given(context, "seed"):
        raise ConfigError("seeds", text, f"it cannot be used with --seed {config.seed}; give one of the two")
    if config.temperature == 0:
        NOTES.hold("--temperature 0 decodes greedily, so all seeds give the same answers")
    return seeds


def _print_failures(
    listener: "ConsoleListener",
    num_failed: int,
    output: str | None,
    controls: Sequence[MemoryName] | None,
    *,
    has_seeds: bool,
) -> None:
    """Write the first failed questions to stderr, one per line, and where to find all of them."""
    typer.echo(f"error: {num_failed} {'question' if num_failed == 1 else 'questions'} failed", err=True)
    for failure in listener.failures:
        line = f"{failure.id} ({failure.agent}): {failure.error}"
        typer.echo("  " + shorten(line, _MAX_FAILURE_CHARS), err=True)
    if num_failed > len(listener.failures):
        typer.echo(f"  … and {num_failed - len(listener.failures)} more", err=True)
    if output is not None:
        shown = hide_password(output) if controls is None else control_output(hide_password(output), "*")
        folder = seed_output(shown, "*") if has_seeds else shown.rstrip("/")
        typer.echo(f"  all are in {folder}/failures.jsonl; --resume tries them again", err=True)
