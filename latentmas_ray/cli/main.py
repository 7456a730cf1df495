"""The console script `latentmas`.

Nothing heavy is imported here: `latentmas --help` must come at once. The commands import what they need.
"""

import sys
from collections.abc import Sequence
from functools import cache
from typing import Annotated

import typer

from latentmas_ray.cli.commands.ask import ask
from latentmas_ray.cli.commands.bench import bench_app
from latentmas_ray.cli.commands.bench.simulate import simulate
from latentmas_ray.cli.commands.compare import compare
from latentmas_ray.cli.commands.demo import demo
from latentmas_ray.cli.commands.doctor import doctor
from latentmas_ray.cli.commands.eval import evaluate
from latentmas_ray.cli.commands.grade import grade
from latentmas_ray.cli.commands.inspect import inspect
from latentmas_ray.cli.commands.memory import memory
from latentmas_ray.cli.commands.pages.report import report
from latentmas_ray.cli.commands.pages.results import results
from latentmas_ray.cli.commands.pages.timeline import timeline
from latentmas_ray.cli.commands.pages.vote import vote
from latentmas_ray.cli.commands.plan import plan
from latentmas_ray.cli.commands.presets import presets
from latentmas_ray.cli.commands.serving.key import serve_key
from latentmas_ray.cli.commands.serving.mcp import mcp
from latentmas_ray.cli.commands.serving.serve import serve
from latentmas_ray.cli.commands.tasks import tasks
from latentmas_ray.cli.commands.topologies import topologies
from latentmas_ray.cli.errors import CommandGroup, exit_code_of
from latentmas_ray.cli.options import with_controls

app = typer.Typer(
    name="latentmas",
    cls=CommandGroup,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("ask")(ask)
app.command("eval")(evaluate)
app.command("compare")(compare)
app.command("vote")(vote)
app.command("grade")(grade)
app.command("tasks")(tasks)
app.command("topologies")(topologies)
app.command("presets")(presets)
app.command("demo")(demo)
app.command("inspect")(inspect)
app.command("memory")(memory)
app.command("mcp")(mcp)
app.command("results")(results)
app.command("report")(report)
app.command("timeline")(timeline)
app.command("plan")(plan)
app.command("simulate")(simulate)
app.command("serve")(serve)
app.command("serve-key")(serve_key)
app.command("doctor")(doctor)
app.add_typer(bench_app, name="bench")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"latentmas {version('latentmas-ray')}")
        raise typer.Exit


@app.callback()
def _latentmas(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """LLM agents that collaborate in latent space on a Ray cluster.

    Agents think in hidden states and hand over working memory instead of text; the last one answers.
    """


# Once for each process: that takes longer than many a command.
_command = cache(lambda: typer.main.get_command(app))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line `args` (the process's own when None) and return the exit code."""
    arguments = with_controls(sys.argv[1:] if args is None else args) or ["--help"]
    return exit_code_of(lambda: _command().main(arguments, prog_name="latentmas", standalone_mode=False))


def run() -> None:
    """Entry point of the console script."""
    sys.exit(main())
