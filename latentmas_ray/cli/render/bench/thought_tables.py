"""The figures of `latentmas bench thoughts` as tables."""

from rich.console import Group, RenderableType
from rich.text import Text

from latentmas_ray.bench.thoughts.figures import ThoughtFigures
from latentmas_ray.cli.render.bench.transfer_tables import make_table

_STEPS_SHOWN = (1, 2, 3, 4, 5, 6, 8, 10, 20, 40, 80)


def thought_tables(figures: ThoughtFigures) -> RenderableType:
    """Return where the vectors are, and how thoughts converge."""
    title = (
        f"{figures.model}, thoughts {figures.thoughts}, {figures.task}: {figures.num_thoughts} thoughts on "
        f"{figures.num_questions} questions, {figures.num_written} different tokens in text"
    )
    places = make_table(("norm", "spread", "nearest\ncosine", "tokens\ncovered"), "vectors")
    for one in figures.places:
        covered = "–" if one.coverage is None else f"{100 * one.coverage:.1f} %"
        places.add_row(one.kind, f"{one.norm:.2f}", f"{one.spread:.2f}", f"{one.nearest:.3f}", covered)
    steps = make_table(("mean", "10 %", "90 %"), "step")
    for step, values in enumerate(figures.convergence, start=1):
        if step in _STEPS_SHOWN:
            steps.add_row(str(step), *(f"{value:.3f}" for value in values))
    return Group("", title, "", places, "", Text("cosine to the thought before", style="bold"), steps)
