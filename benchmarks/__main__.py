"""`python -m benchmarks …`: measurements that need a checkout."""

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated

import typer

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


@app.command("authentication")
def _authentication(
    repeats: Annotated[int, typer.Option(help="measurements of each figure, in turn", min=1)] = 15,
    all_cores: Annotated[bool, typer.Option("--all-cores", help="also the two ends on all cores")] = False,
) -> None:
    """Measure tags of bytes on one core, a chunk's two ends, and a connection's handshake."""
    from benchmarks.authentication import measure_authentication  # needs torch

    measure_authentication(repeats, all_cores=all_cores)


@app.command("vllm-memory")
def _vllm_memory(
    megabytes: Annotated[int, typer.Option(help="size of the memory", min=1)] = 128,
    repeats: Annotated[int, typer.Option(help="measurements of each figure, in turn", min=1)] = 9,
) -> None:
    """Measure how fast memory is written into vLLM's paged cache on a CPU, beside memcpy."""
    from benchmarks.vllm_memory import measure_vllm_memory  # needs torch and vLLM

    measure_vllm_memory(megabytes, repeats)


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
