"""`latentmas memory`: what a file of working memory holds, and which model can read it."""

from typing import Annotated

import typer


def memory(
    file: Annotated[str, typer.Argument(metavar="FILE", help="what Memory.save or --save-memory has written")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object instead of tables")] = False,
) -> None:
    """Show what a file of working memory holds, and which model can read it."""
    from latentmas_ray.cli.render.memory_tables import memory_row, memory_view
    from latentmas_ray.cli.render.run_tables import results_console
    from latentmas_ray.memory import Memory
    from latentmas_ray.runs.folder import encode_row

    loaded = Memory.load(file)
    if as_json:
        typer.echo(encode_row(memory_row(loaded)), nl=False)
        return
    console = results_console()
    for part in memory_view(loaded):
        console.print(part)
