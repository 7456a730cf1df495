"""The devices of a model's weights: one GPU if they fit, several if they must, or tensor-parallel ranks.

Every weight is on a device while a model is used: weights that accelerate offloads to memory or disk could be used for
neither the vocabulary projection nor the weights' digest. For tensor parallelism transformers' plan says of each weight
whether it is divided by rows or columns; transformers reads only a rank's part of a file and inserts the collectives.
"""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import infer_auto_device_map
from accelerate.utils import get_balanced_memory
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.distributed import DistributedConfig

from latentmas_ray.config import DEVICE_FORM, is_device
from latentmas_ray.errors import ModelError
from latentmas_ray.models.kv_spec import config_dims, keeps_states
from latentmas_ray.units import format_bytes

FIELD = "tp"  # the flag that asks for ranks
WEIGHTS_SHARE = 0.9  # of a GPU's free memory; the rest is for working memory and for what a forward needs
# Styles of a plan that divide a vocabulary: of the output embeddings, and of the input embeddings, which may be tied.
_DIVIDES_VOCABULARY = ("colwise_gather_output", "colwise_rep", "embedding_rowwise")
_WHOLE = "replicated_with_grad_allreduce"  # the style that divides nothing


def choose_device(device: str) -> torch.device:
    """The torch device of a name; plain `cuda` means any GPU with enough memory. Raises ModelError if none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not is_device(device):
        raise ModelError("device", device, DEVICE_FORM)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("device", device, "this machine has no CUDA device; use auto or cpu")
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise ModelError("device", device, f"this machine has {torch.cuda.device_count()} CUDA devices")
    return torch.device(device)


def place_weights(model: PreTrainedModel, name: str, free_bytes: Iterable[int]) -> dict[str, int]:
    """The GPU of each part of the model, as a `device_map` for `from_pretrained`. `model` may be on the meta device.

    `free_bytes` yields the free bytes of GPU 0, 1, …; it is read only as far as needed, because querying a GPU takes
    some of its memory. Raises ModelError if all GPUs together are too small.
    """
    num_bytes = weights_bytes(model)
    limits_by_gpu: dict[int | str, int] = {}
    for gpu, free in enumerate(free_bytes):
        limits_by_gpu[gpu] = int(free * WEIGHTS_SHARE)
        if num_bytes <= limits_by_gpu[gpu]:
            return {"": gpu}
    if len(limits_by_gpu) > 1:
        whole = list(getattr(model, "_no_split_modules", None) or [])
        # Evenly, so that all have equal memory left; if that fails, one GPU is filled after the other.
        balanced = get_balanced_memory(model, max_memory=dict(limits_by_gpu), no_split_module_classes=whole)
        for limits in (balanced, limits_by_gpu):
            spread: dict[str, int] = infer_auto_device_map(
                model, max_memory=dict(limits), no_split_module_classes=whole
            )
            if set(spread.values()) <= limits_by_gpu.keys():
                return spread
    found = " + ".join(format_bytes(limit) for limit in limits_by_gpu.values())
    raise ModelError(
        "model",
        name,
        f"its weights need {format_bytes(num_bytes)}, and the GPUs here have {found} for them ({WEIGHTS_SHARE:.0%} of "
        "their free memory): use larger or more GPUs, a smaller model or dtype, or device cpu",
    )


def weights_bytes(model: nn.Module) -> int:
    """Bytes of all weights; tied weights count once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def check_divisible(config: PretrainedConfig, name: str, num_ranks: int) -> None:
    """Raises ModelError for `tp` if the model cannot be divided over `num_ranks` ranks."""
    if not getattr(config, "base_model_tp_plan", None):
        expected = f"it must be 1: transformers has no tensor-parallel plan for {name} ({type(config).__name__})"
        raise ModelError(FIELD, num_ranks, expected)
    dims = config_dims(config)
    if dims.latent_dim and num_ranks > 1:
        expected = f"it must be 1: all heads of {name} share one latent, which every rank would hold"
        raise ModelError(FIELD, num_ranks, expected)
    if num_ranks > 1 and keeps_states(config):
        raise ModelError(FIELD, num_ranks, f"it must be 1: states of {name} are not divided over ranks")
    heads, kv_heads = dims.num_heads, dims.num_kv_heads
    if heads % num_ranks or kv_heads % num_ranks:
        good = [str(count) for count in range(1, kv_heads + 1) if heads % count == kv_heads % count == 0]
        choice = good[0] if len(good) == 1 else f"{', '.join(good[:-1])} or {good[-1]}"
        counts = f"{heads} attention heads and {kv_heads} KV heads"
        raise ModelError(FIELD, num_ranks, f"{name} has {counts}, so it must be {choice}")


def check_shard_device(place: torch.device, device: str, num_ranks: int) -> None:
    """Raises ModelError for a device that transformers does not use for a shard: it uses the process's first GPU, and
    the CPU only if torch has no accelerator."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and place.type != accelerator.type:
        expected = f"with {FIELD} {num_ranks} it must be auto or {accelerator.type}, which this torch was built for"
        raise ModelError("device", device, expected)
    if place.index:
        raise ModelError("device", device, f"with {FIELD} {num_ranks} it must be cuda: a rank uses its first GPU")


def shard_arguments(config: PretrainedConfig, num_ranks: int) -> dict[str, Any]:
    """The arguments with which `from_pretrained` loads this process's part. Needs the process-wide default group."""
    return {"distributed_config": DistributedConfig(tp_size=num_ranks, tp_plan=_whole_modules(config, num_ranks))}


def _whole_modules(config: PretrainedConfig, num_ranks: int) -> dict[str, str] | None:
    """Return the changes to the model's plan: a vocabulary that cannot be divided evenly stays whole on every rank.

    Some releases of transformers refuse to divide it (5.19 does, 5.20 does not).
    """
    if config.get_text_config().vocab_size % num_ranks == 0:
        return None
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return dict.fromkeys((name for name, style in empty.tp_plan.items() if style in _DIVIDES_VOCABULARY), _WHOLE)
