"""Loads vLLM in an actor, with the share of the device's memory that Ray has given to the actor."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from latentmas_ray.writing.text_runner import TextRunner


def load_vllm_runner(
    model: str,
    *,
    dtype: str,
    revision: str | None,
    max_running: int,
    sampler: Literal["counter", "engine"],
) -> "TextRunner":
    """Return a runner that writes at most `max_running` questions at the same time on vLLM. Raises ModelError, and
    ConfigError if this node has no vLLM, or another version of it."""
    from latentmas_ray.vllm.installed import require_vllm

    require_vllm()
    from latentmas_ray.vllm.load import load_text_engine
    from latentmas_ray.writing.text_runner import TextRunner

    engine = load_text_engine(
        model,
        dtype=dtype,
        revision=revision,
        max_running=max_running,
        kv_cache_bytes=None,
        sampler=sampler,
    )
    return TextRunner(engine=engine)
