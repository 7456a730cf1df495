"""`latentmas topologies`: the names that `--topology` accepts, with their agents; or one topology as YAML."""

import json
from typing import Annotated

import typer

from latentmas_ray.cli.options import complete_topology
from latentmas_ray.cli.unused_flags import tell_unused
from latentmas_ray.topology import BUILTIN, Topology, load_topology

_NEXT = """\
latentmas topologies NAME shows one as YAML: a beginning for a topology of your own,
for --topology FILE.yaml. The tasks chain and notes use their own of the same name
without being asked. With --method single one agent answers alone."""


def topologies(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE.yaml", help="show this one as YAML", show_default=False, autocompletion=complete_topology
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
) -> None:
    """List the built-in topologies: agents, and whom each reads."""
    tell_unused("topologies", {"as_json": as_json, "name": name})
    if name is not None:
        typer.echo(load_topology(name).to_yaml(), nl=False)
        return
    found = [load_topology(one) for one in BUILTIN]
    if as_json:
        rows = [
            {
                "name": one.name,
                **({} if one.decides is None else {"decides": one.decides}),
                "agents": [
                    {"name": agent.name, "thinks": agent.thinks, "reads": list(agent.reads)} for agent in one.agents
                ],
            }
            for one in found
        ]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from latentmas_ray.cli.render.run_tables import named_rows, results_console

    console = results_console()
    console.print(named_rows({one.name: _agents(one) for one in found}))
    console.print(f"\n{_NEXT}", markup=False, soft_wrap=True)


def _agents(topology: Topology) -> str:
    """Return the agents in the order of their turns, each with those that it reads: `critic ← planner`."""
    agents = [agent.name + (f" ← {', '.join(agent.reads)}" if agent.reads else "") for agent in topology.agents]
    if topology.decides is not None:
        agents.append(f"{topology.decides} decides among {', '.join(one.name for one in topology.answering_agents)}")
    return "; ".join(agents)
