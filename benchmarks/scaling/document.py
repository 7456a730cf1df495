"""Writes the simulated clusters of a document: what was run, a table for each topology, and the plot."""

from collections.abc import Sequence
from pathlib import Path

from latentmas_ray.bench.plot import check_matplotlib
from latentmas_ray.errors import ConfigError
from latentmas_ray.simulation.figures import Simulation
from latentmas_ray.simulation.plot import draw
from latentmas_ray.simulation.table import COLUMNS, rows_of

BEGIN = "<!-- simulated clusters: `python -m benchmarks clusters` writes this part -->\n"
END = "<!-- end of the simulated clusters -->\n"
PLOT = "scaling_simulated.png"


def check_document(document: Path) -> None:
    """Raise ConfigError unless the document has the part that is written."""
    expected = "it must be a Markdown file with the two lines that enclose the simulated clusters"
    try:
        text = document.read_text()
    except OSError as error:
        raise ConfigError("document", str(document), f"{expected}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError("document", str(document), expected) from None
    if BEGIN not in text or END not in text.partition(BEGIN)[2]:
        raise ConfigError("document", str(document), expected)
    check_matplotlib(PLOT)


def write(document: Path, outcome: Simulation, command: str) -> None:
    """Write the figures between the two lines of the document, and the plot next to it. Raises RunError if the plot
    cannot be written."""
    before, _, rest = document.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    draw(outcome, str(document.parent / PLOT))
    document.write_text(before + BEGIN + "\n" + "\n".join(_lines(outcome, command)) + "\n\n" + END + after)


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
        lines += ["", f"`{name}`", "", *_table([COLUMNS, ("---:",) * len(COLUMNS), *cells])]
    return lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in rows]
