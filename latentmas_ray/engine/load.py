"""Loads a turn runner. Importing this module imports neither torch nor transformers, so a process that only sends
`load_runner` to another one stays light."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentmas_ray.engine.recompute import InputTranslator
    from latentmas_ray.engine.runner import TurnRunner
    from latentmas_ray.models import LanguageModel
    from latentmas_ray.models.given import GivenModel
    from latentmas_ray.models.translation import ThoughtAdapter
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
    reads_from: Mapping[str, str] | None = None,
    adapters: "Mapping[str, ThoughtAdapter] | None" = None,
) -> "TurnRunner":
    """Return a runner for a model by name, for this rank's shard of it, or for a model object. `thoughts` is its
    thought rule, whose realignment matrix is cached in `cache_dir` (default: see `env`). `revision` belongs to a hub
    id. `reads_from` are the other models whose memory it reads, and where each is: a folder or a hub id;
    `adapters` are trained maps of the thoughts of some of them. Raises ModelError, ShardError, and ConfigError for a
    model whose memory this one cannot read.
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
    folder = cache_dir or read_environment().cache_dir
    trained = adapters or {}
    translators = {
        name: _translator(place, lm, folder, trained.get(name)) for name, place in (reads_from or {}).items()
    }
    return TurnRunner(Engine(lm, thoughts=thoughts, cache_dir=folder), translators)


def _translator(
    writer: str, reader: "LanguageModel", cache_dir: Path, adapter: "ThoughtAdapter | None"
) -> "InputTranslator":
    """Return what translates the memory of the model `writer`; the same model in another dtype needs none."""
    from latentmas_ray.engine.recompute import SameWeights
    from latentmas_ray.models.translation import make_translator

    return SameWeights() if writer == reader.name else make_translator(writer, reader, cache_dir, adapter)
