"""Loads what an actor of text agents needs, on our own engine. Importing this module imports neither torch nor
transformers, so a process that only sends `load_text_runner` to another one stays light."""

from pathlib import Path
from typing import TYPE_CHECKING

from latentmas_ray.engine.load import load_runner

if TYPE_CHECKING:
    from latentmas_ray.models.given import GivenModel
    from latentmas_ray.writing.text_runner import TextRunner


def load_text_runner(
    model: "str | GivenModel",
    *,
    dtype: str,
    device: str,
    realign: bool,
    max_running: int,
    cache_dir: Path | None = None,
    revision: str | None = None,
) -> "TextRunner":
    """Return a runner that writes at most `max_running` questions at the same time. The other arguments, and what is
    raised, are those of `load_runner`."""
    from latentmas_ray.writing.continuous import ContinuousEngine
    from latentmas_ray.writing.text_runner import TextRunner

    turns = load_runner(model, dtype=dtype, device=device, realign=realign, cache_dir=cache_dir, revision=revision)
    return TextRunner(
        engine=ContinuousEngine(turns.engine.lm, max_running=max_running), turns=turns, recompute=turns.recompute
    )
