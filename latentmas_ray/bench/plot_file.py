"""Checks the file name of a plot. Imports nothing heavy."""

from pathlib import Path

from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home

PLOT_ENDING = ".png"


def check_plot_file(name: str) -> None:
    """Raise ConfigError unless a plot can be written to the file `name`."""
    path = Path(expand_home("plot", name))
    if path.suffix.lower() != PLOT_ENDING or path.is_dir():
        raise ConfigError("plot", name, f"it must be a file that ends in {PLOT_ENDING}")
    if not path.parent.is_dir():
        raise ConfigError("plot", name, f"its folder must exist: {path.parent}")
