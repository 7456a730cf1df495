"""`python -m benchmarks …`: measurements that need a checkout."""

import sys
from collections.abc import Sequence
from dataclasses import fields

import typer

from benchmarks.authentication import authentication
from benchmarks.engine.command import engine
from benchmarks.engine.settings import EngineBenchSettings
from benchmarks.scaling.command import scaling
from benchmarks.scaling.settings import ScalingBenchSettings
from latentmas_ray.cli.errors import CommandGroup, exit_code_of

_FLAG_FIELDS = frozenset(field.name for kind in (EngineBenchSettings, ScalingBenchSettings) for field in fields(kind))

app = typer.Typer(
    cls=CommandGroup,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("engine")(engine)
app.command("scaling")(scaling)
app.command("authentication")(authentication)


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
