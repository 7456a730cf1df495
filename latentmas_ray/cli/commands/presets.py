"""`latentmas presets`: published settings that `--preset` accepts, with their source and what is not known of them."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from latentmas_ray.system.settings import Preset

_NEXT = """\
latentmas eval --preset NAME runs one, latentmas plan --preset NAME plans it, and
latentmas presets NAME shows what is published and what is not. Flags override it:
--topology hierarchical has published results too."""


def presets(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="show all that is known of this one", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """List published settings by task and model."""
    from latentmas_ray.cli.render.run_tables import named_rows, results_console
    from latentmas_ray.system.settings import find_preset, load_presets

    chosen = load_presets() if name is None else (find_preset(name),)
    if as_json:
        rows = [_to_json(preset) for preset in chosen]
        typer.echo(json.dumps(rows if name is None else rows[0], indent=2, ensure_ascii=False))
        return
    console = results_console()
    if name is not None:
        console.print(named_rows(_details(chosen[0])))
        return
    console.print(_table(chosen))
    console.print(f"\n{chosen[0].source}. {_NEXT}", markup=False, soft_wrap=True)


def _table(chosen: "tuple[Preset, ...]") -> Any:
    from rich import box

    from latentmas_ray.cli.render.fitted import FittedTable

    table = FittedTable(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("preset", style="bold", no_wrap=True)
    for title in ("latent\nsteps", "new\ntokens", "tempe-\nrature", "top-p"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("sequential\naccuracy", "hierarchical\naccuracy"):
        table.add_column(title, justify="right", no_wrap=True)
    for preset in chosen:
        fields = preset.fields
        settings = [fields[key] for key in ("latent_steps", "max_new_tokens", "temperature", "top_p")]
        table.add_row(preset.name, *map(str, settings), *(_accuracy(preset, one) for one in preset.topologies))
    return table


def _accuracy(preset: "Preset", topology: str) -> str:
    found = _published(preset).get(topology)
    return "" if found is None else f"{found['accuracy']:.1%}"


def _details(preset: "Preset") -> dict[str, str]:
    published = {
        f"published, {topology}": f"{cell['accuracy']:.1%}, {cell['output_tokens']:g} output tokens per question"
        for topology, cell in _published(preset).items()
    }
    return {
        "preset": preset.name,
        **{name.replace("_", " "): str(value) for name, value in preset.fields.items()},
        **published,
        "source": preset.source,
        "not known": "\n".join(preset.unknown),
    }


def _published(preset: "Preset") -> dict[str, dict[str, float]]:
    """Return the published result by topology."""
    from latentmas_ray.config import RunConfig
    from latentmas_ray.report.published import find_cell

    cells = {
        topology: find_cell(RunConfig(**{**preset.fields, "topology": topology})) for topology in preset.topologies
    }
    return {topology: asdict(cell) for topology, cell in cells.items() if cell is not None}


def _to_json(preset: "Preset") -> dict[str, Any]:
    return {
        "name": preset.name,
        "settings": dict(preset.fields),
        "published": _published(preset),
        "source": preset.source,
        "unknown": list(preset.unknown),
    }
