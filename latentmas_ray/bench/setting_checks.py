"""Checks of settings that several benchmarks have. Imports nothing heavy."""

import os
from pathlib import Path

from latentmas_ray.config.address import split_address
from latentmas_ray.errors import ConfigError
from latentmas_ray.paths import expand_home

PLOT_ENDING = ".png"
DTYPES = ("auto", "float32", "bfloat16")


def check_plot_file(name: str) -> None:
    """Raise ConfigError unless a plot can be written to the file `name`."""
    checked_file("plot", name, PLOT_ENDING)


def checked_file(field: str, name: str, ending: str) -> Path:
    """Return the path of a file that will be written after what may take minutes. Raises ConfigError if it has another
    ending or cannot be written."""
    path = Path(expand_home(field, name))
    if path.suffix.lower() != ending or path.is_dir():
        raise ConfigError(field, name, f"it must be a file that ends in {ending}")
    if not path.parent.is_dir():
        raise ConfigError(field, name, f"its folder must exist: {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(field, name, "it cannot be written: Permission denied")
    return path


def check_positive(settings: object, *names: str) -> None:
    """Raise ConfigError unless these fields are at least 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ConfigError(name, getattr(settings, name), "it must be at least 1")


def check_dtype(dtype: str) -> None:
    """Raise ConfigError unless a model can be loaded in this dtype."""
    if dtype not in DTYPES:
        raise ConfigError("dtype", dtype, "it must be 'auto', 'float32' or 'bfloat16'")


def check_address(address: str | None) -> None:
    """Raise ConfigError unless this may be the address of a cluster."""
    if address is not None:
        try:
            split_address(address)
        except ValueError as error:
            raise ConfigError("address", address, str(error)) from None
