"""All environment variables that this package reads, typed; nothing else in the package touches the environment.

A bad value raises `ConfigError` and names the variable: it is never swallowed.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from latentmas_ray.errors import ConfigError

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off", ""}


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the environment says, read once by `read_environment`."""

    cache_dir: Path  # LATENTMAS_CACHE_DIR: where realignment matrices are kept
    ray_address: str | None  # RAY_ADDRESS: the cluster a run joins when --address is not given
    torch_threads: int | None  # LATENTMAS_TORCH_THREADS: torch threads per actor instead of the computed number
    require_hardware: bool  # LATENTMAS_REQUIRE_HARDWARE: tests that lack their hardware fail instead of skipping


def read_environment() -> Environment:
    """Read and check every variable. Raises ConfigError naming the variable that is wrong."""
    default_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "latentmas_ray"
    return Environment(
        cache_dir=Path(os.environ.get("LATENTMAS_CACHE_DIR") or default_cache),
        ray_address=os.environ.get("RAY_ADDRESS") or None,
        torch_threads=_positive_int("LATENTMAS_TORCH_THREADS"),
        require_hardware=_flag("LATENTMAS_REQUIRE_HARDWARE"),
    )


def _positive_int(name: str) -> int | None:
    text = os.environ.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ConfigError(name, text, "it must be a whole number of at least 1")
    return int(text)


def _flag(name: str) -> bool:
    text = os.environ.get(name, "").lower()
    if text not in _TRUE | _FALSE:
        raise ConfigError(name, text, "it must be 1 or 0")
    return text in _TRUE
