"""`latentmas bench thoughts`: where thoughts are among the input embeddings."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from latentmas_ray.cli.commands.bench.measure import measure_and_show
from latentmas_ray.cli.options import run_options
from latentmas_ray.config import RunConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from latentmas_ray.bench.thoughts.figures import ThoughtFigures


@run_options(
    "model",
    "revision",
    "dtype",
    "device",
    "task",
    "limit",
    "topology",
    "latent_steps",
    "thoughts",
    "max_new_tokens",
    "output",
    fixed={"limit": 20, "temperature": 0.0, "runtime": "local"},
    helps={"output": "folder for figures.json and the pictures thoughts.png and convergence.png"},
)
def thoughts(
    config: RunConfig,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure where a model's thoughts are among its input embeddings, and how they move from step to step.

    Hidden states, what the rule makes of them, and the thoughts as they are fed: their length, the nearest embeddings,
    and how many of the tokens they cover that the same agents write in text. docs/thoughts.md has the formulas.
    """
    measure_and_show(partial(_measure, config), _table, as_json=as_json)


def _measure(config: RunConfig, say: "Callable[[str], None]") -> "ThoughtFigures":
    from latentmas_ray.bench.thoughts.measure import measure  # torch: only once the flags are valid

    return measure(config, say)


def _table(figures: "ThoughtFigures") -> "RenderableType":
    from latentmas_ray.cli.render.bench.thought_tables import thought_tables

    return thought_tables(figures)
