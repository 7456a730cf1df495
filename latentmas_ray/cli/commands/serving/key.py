"""`latentmas serve-key`: a new API key for an endpoint."""

from typing import Annotated

import typer

from latentmas_ray.paths import expand_home


def serve_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="whose key it is, as the log names it")],
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="the file of --api-keys: add the key's entry to it")
    ] = None,
) -> None:
    """Make an API key for `latentmas serve`, and show it once.

    An entry, by which a server knows the key, is added to --file, or shown for LATENTMAS_API_KEYS.
    """
    from latentmas_ray.serve.admission.keys import add_key, make_key

    if file is not None:
        typer.echo(add_key(expand_home("file", file), name))
        return
    made = make_key(name)
    typer.echo(f"key    {made.key}")
    typer.echo(f"entry  {made.entry}")
