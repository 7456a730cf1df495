"""`latentmas serve-key`: a new API key for an endpoint."""

import json
from typing import Annotated

import typer


def serve_key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="whose key it is, as the log names it")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object: the key and its entry")] = False,
) -> None:
    """Make an API key: the entry for --api-keys on standard output, the key itself, once, on standard error.

    `latentmas serve-key ann >> FILE` adds it to a file.
    """
    from latentmas_ray.serve.admission.keys import make_key

    made = make_key(name)
    if as_json:
        typer.echo(json.dumps({"name": name, "key": made.key, "entry": made.entry}))
        return
    typer.echo(made.entry)
    typer.echo(f"The key of {name}, which is stored nowhere: {made.key}", err=True)
