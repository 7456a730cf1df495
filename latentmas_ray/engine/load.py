"""Loads a turn runner. Importing this module imports neither torch nor transformers, so a process that only sends
`load_runner` to another one stays light."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentmas_ray.engine.runner import TurnRunner
    from latentmas_ray.models.given import GivenModel
    from latentmas_ray.parallel.ranks import Ranks


def load_runner(
    model: "str | GivenModel",
    *,
    dtype: str,
    device: str,
    thoughts: str = "realign",
    cache_dir: Path | None = None,
    ranks: "Ranks | None" = None,
    revision: str | None = None,
) -> "TurnRunner":
    """Return a runner for a model by name, for this rank's shard of it, or for a model object.

    `thoughts` is its thought rule, whose realignment matrix is cached in `cache_dir` (default: see `env`). `revision`
    belongs to a hub id. Raises ModelError, ShardError.
    """
    from latentmas_ray.engine.engine import Engine
    from latentmas_ray.engine.runner import TurnRunner
    from latentmas_ray.env import read_environment
    from latentmas_ray.models.load import load_model
    from latentmas_ray.parallel.ranks import ALONE

    if isinstance(model, str):
        lm = load_model(model, dtype=dtype, device=device, ranks=ranks or ALONE, revision=revision)
    else:
        lm = model.load(dtype=dtype, device=device, ranks=ranks or ALONE)
    return TurnRunner(Engine(lm, thoughts=thoughts, cache_dir=cache_dir or read_environment().cache_dir))
