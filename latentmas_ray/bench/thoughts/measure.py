"""Measures the thoughts of a model: figures, and with a folder the pictures."""

import json
from collections.abc import Callable
from pathlib import Path

from latentmas_ray.bench.plot import check_matplotlib
from latentmas_ray.bench.thoughts.figures import ThoughtFigures, find_figures
from latentmas_ray.bench.thoughts.pictures import CONVERGENCE_NAME, PLACES_NAME, draw_pictures
from latentmas_ray.bench.thoughts.sample import collect_sample
from latentmas_ray.config import RunConfig
from latentmas_ray.errors import ConfigError

FIGURES_NAME = "figures.json"


def measure(config: RunConfig, say: Callable[[str], None]) -> ThoughtFigures:
    """Measure the thoughts of the configured agents; writes figures and pictures to `config.output`.

    Raises ConfigError for a folder that cannot be written, and if matplotlib is missing, before anything starts.
    """
    folder = None if config.output is None else Path(config.output)
    if folder is not None:
        check_matplotlib(str(folder / PLACES_NAME))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError("output", config.output, f"it must be a folder: {error.strerror}") from None
    sample = collect_sample(config, say)
    figures = find_figures(sample, model=config.model, thoughts=config.thoughts, task=config.task)
    if folder is not None:
        (folder / FIGURES_NAME).write_text(json.dumps(figures.to_json(), indent=1) + "\n")
        draw_pictures(sample, figures, folder)
        say(f"{folder}: {FIGURES_NAME}, {PLACES_NAME}, {CONVERGENCE_NAME}")
    return figures
