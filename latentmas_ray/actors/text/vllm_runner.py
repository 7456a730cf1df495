"""Loads vLLM in an actor, with the part of the device's memory that Ray has given to the actor."""

import os
import secrets
from typing import TYPE_CHECKING, Any

from latentmas_ray.actors.text.device_share import device_share
from latentmas_ray.config import SamplerName

if TYPE_CHECKING:
    from latentmas_ray.parallel.ranks import Ranks
    from latentmas_ray.writing.text_runner import TextRunner


def load_vllm_runner(
    model: str,
    *,
    dtype: str,
    revision: str | None,
    max_running: int,
    sampler: SamplerName,
    takes_inputs: bool = False,
    ranks: "Ranks | None" = None,
) -> "TextRunner":
    """Return a runner that writes at most `max_running` questions at the same time on vLLM. With `takes_inputs` it
    also reads the inputs of a chain of agents in place of their KV. With `ranks` it is one rank's part of the model:
    vLLM computes in their process group, which is torch's default one.

    Raises ModelError, also if there is no room for a cache, and ConfigError if this node has no vLLM, or another
    version of it.
    """
    from latentmas_ray.vllm.load import load_text_engine
    from latentmas_ray.writing.text_runner import TextRunner

    divided: dict[str, Any] = {}
    if ranks is not None:
        divided = {"shard": ranks.shard, "group": ranks.broadcast_from_rank0(lambda: secrets.token_hex(8))}
    engine = load_text_engine(
        model,
        dtype=dtype,
        revision=revision,
        max_running=max_running,
        sampler=sampler,
        takes_inputs=takes_inputs,
        **divided,
        **_memory(model, dtype, revision, max_running, 1 if ranks is None else ranks.shard.world_size),
    )
    return TextRunner(engine=engine)


def _memory(model: str, dtype: str, revision: str | None, max_running: int, num_ranks: int) -> dict[str, Any]:
    """Return what vLLM may use of the device of one rank, as arguments of `load_text_engine`."""
    import torch

    from latentmas_ray.models.load import load_config
    from latentmas_ray.models.names import known_positions
    from latentmas_ray.placement.cache_size import DEVICE_SHARE, bytes_on_gpu, bytes_on_host, wanted_bytes
    from latentmas_ray.placement.model_dims import dims_of_config, known_dims
    from latentmas_ray.vllm.load import computes_on_cpu

    found = known_dims(model) if revision is None else None
    dims = (found or dims_of_config(load_config(model, revision).to_dict(), model)).in_dtype(dtype)
    wanted = wanted_bytes(dims, max_running=max_running, max_positions=known_positions(model, revision))
    wanted //= num_ranks
    if computes_on_cpu():
        host_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return {"kv_cache_bytes": bytes_on_host(host_bytes=host_bytes, share=device_share("cpu"), wanted=wanted)}
    share, gpu_bytes = device_share("cuda"), torch.cuda.get_device_properties(0).total_memory
    return {
        "kv_cache_bytes": bytes_on_gpu(
            dims,
            model,
            gpu_bytes=gpu_bytes,
            share=share,
            wanted=wanted,
            max_running=max_running,
            num_ranks=num_ranks,
        ),
        # Only checked against what is free at the start: the size of the cache is given.
        "gpu_memory_utilization": DEVICE_SHARE * share,
    }
