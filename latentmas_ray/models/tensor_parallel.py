"""Models divided over tensor-parallel ranks, by the plan that transformers has for them.

The plan says of each weight whether it is divided by its rows or its columns; transformers reads only a rank's own part
of a file and puts the collectives where they belong. Everything that is not divided is on every rank.
"""

from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.distributed import DistributedConfig

from latentmas_ray.errors import ModelError

FIELD = "tp"  # the flag that asks for ranks


def check_divisible(config: PretrainedConfig, name: str, num_ranks: int) -> None:
    """Raises ModelError that names `tp` for a model that cannot be divided over so many ranks."""
    if not getattr(config, "base_model_tp_plan", None):
        expected = f"it must be 1: transformers has no tensor-parallel plan for {name} ({type(config).__name__})"
        raise ModelError(FIELD, num_ranks, expected)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if heads % num_ranks or kv_heads % num_ranks:
        good = [str(count) for count in range(1, kv_heads + 1) if heads % count == kv_heads % count == 0]
        choice = good[0] if len(good) == 1 else f"{', '.join(good[:-1])} or {good[-1]}"
        counts = f"{heads} attention heads and {kv_heads} KV heads"
        raise ModelError(FIELD, num_ranks, f"{name} has {counts}, so it must be {choice}")


def check_shard_device(place: torch.device, device: str, num_ranks: int) -> None:
    """Raises ModelError for a device on which transformers would not put a shard: it takes the process's first GPU, and
    the CPU only if torch was built for nothing else."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and place.type != accelerator.type:
        expected = f"with {FIELD} {num_ranks} it must be auto or {accelerator.type}, which this torch was built for"
        raise ModelError("device", device, expected)
    if place.index:
        raise ModelError("device", device, f"with {FIELD} {num_ranks} it must be cuda: a rank takes its first GPU")


def shard_arguments(num_ranks: int) -> dict[str, Any]:
    """The arguments with which `from_pretrained` loads this process's part. The process-wide group must be there."""
    return {"distributed_config": DistributedConfig(tp_size=num_ranks)}
