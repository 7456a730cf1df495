"""Loads what an actor of text agents needs, on our own engine. Importing this module imports neither torch nor
transformers, so a process that only sends `load_text_runner` to another one stays light."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from latentmas_ray.engine.load import load_runner

if TYPE_CHECKING:
    from latentmas_ray.models.given import GivenModel
    from latentmas_ray.models.translation import ThoughtAdapter
    from latentmas_ray.writing.text_runner import TextRunner


def load_text_runner(
    model: "str | GivenModel",
    *,
    dtype: str,
    device: str,
    thoughts: str,
    max_running: int,
    cache_dir: Path | None = None,
    revision: str | None = None,
    reads_from: Mapping[str, str] | None = None,
    adapters: "Mapping[str, ThoughtAdapter] | None" = None,
    get_share: Callable[[str], float] | None = None,
    executes_turns: bool = False,
) -> "TextRunner":
    """Return a runner that writes at most `max_running` questions at the same time.

    `get_share` returns which part of a device of a type (`cuda`, `cpu`) is for this process; without it the cache has
    no bound. `executes_turns`: whole turns run on the same model, too, and need as large a cache. The other arguments,
    and what is raised, are those of `load_runner`.
    """
    from latentmas_ray.writing.cache_bound import cache_bound
    from latentmas_ray.writing.continuous import ContinuousEngine
    from latentmas_ray.writing.text_runner import TextRunner

    turns = load_runner(
        model,
        dtype=dtype,
        device=device,
        thoughts=thoughts,
        cache_dir=cache_dir,
        revision=revision,
        reads_from=reads_from,
        adapters=adapters,
    )
    lm, bound = turns.engine.lm, None
    if get_share is not None:
        share = get_share(lm.device.type)
        bound = cache_bound(lm, max_running=max_running, share=share, executes_turns=executes_turns)
    engine = ContinuousEngine(lm, max_running=max_running, max_cache_bytes=bound)
    return TextRunner(engine=engine, turns=turns, recompute=turns.recompute, translate=turns.translate)
