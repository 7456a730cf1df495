"""Writes the simulated clusters of a document: what was run, a table for each topology, and the plot."""

from pathlib import Path

from benchmarks.generated_part import GeneratedPart, table_lines
from latentmas_ray.bench.plot import check_matplotlib
from latentmas_ray.simulation.figures import Simulation
from latentmas_ray.simulation.plot import draw
from latentmas_ray.simulation.table import COLUMNS, rows_of

PLOT = "scaling_simulated.png"
BEGIN = "<!-- simulated clusters: `python -m benchmarks clusters` writes this part -->\n"
END = "<!-- end of the simulated clusters -->\n"
_PART = GeneratedPart(begin=BEGIN, end=END, what="the simulated clusters")


def check_document(document: Path) -> None:
    """Raise ConfigError unless the document has the part that is written."""
    _PART.check(document)
    check_matplotlib(PLOT)


def write(document: Path, outcome: Simulation, command: str) -> None:
    """Write the figures between the two lines of the document, and the plot next to it. Raises RunError if the plot
    cannot be written."""
    draw(outcome, str(document.parent / PLOT))
    _PART.write(document, _lines(outcome, command))


def _lines(outcome: Simulation, command: str) -> list[str]:
    settings, simulated_in = outcome.settings, sum(one.simulated_in for one in outcome.runs)
    lines = [
        f"`{command}`: {settings.turns_in_words} (± {settings.spread:.0%}), batches of {settings.batch_size}, memory "
        f"of {settings.model} with {settings.prompt_tokens} tokens a prompt and {settings.latent_steps} latent steps, "
        f"{settings.gpus_per_node} GPUs a node.",
        f"The driver's processor time is that of {outcome.machine}, and {1000 * settings.runtime_seconds:g} ms a turn "
        f"for calls to Ray. All runs together took {simulated_in:.0f} processor seconds.",
        "",
        f"![Questions per second, GPU use and the driver's share of a core over nodes]({PLOT})",
    ]
    for name in dict.fromkeys(one.topology for one in outcome.runs):
        cells = rows_of([one for one in outcome.runs if one.topology == name])
        lines += ["", f"`{name}`", "", *table_lines([COLUMNS, ("---:",) * len(COLUMNS), *cells])]
    return lines
