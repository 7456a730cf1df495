"""`latentmas bench …`: measurements."""

import typer

from latentmas_ray.cli.commands.bench.transfer import transfer
from latentmas_ray.cli.errors import CommandGroup

bench_app = typer.Typer(cls=CommandGroup, rich_markup_mode=None, help="Measure: each figure beside a reference.")
bench_app.command("transfer")(transfer)


@bench_app.callback()
def _bench() -> None:
    """Measure: each figure beside a reference that runs in the same process and time."""
