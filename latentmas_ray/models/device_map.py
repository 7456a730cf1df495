"""On which GPUs the weights of a model go: on one wherever they fit, and spread only where they must be.

Every weight lies on a device while a model is used. Weights that accelerate keeps in memory or on disk, and brings in
for a forward, could neither be projected with nor be told from another model's.
"""

from collections.abc import Iterable

from accelerate import infer_auto_device_map
from accelerate.utils import get_balanced_memory
from torch import nn
from transformers import PreTrainedModel

from latentmas_ray.errors import ModelError
from latentmas_ray.units import format_bytes

WEIGHTS_SHARE = 0.9  # of a GPU's free memory; the rest is for working memory and for what a forward needs


def place_weights(model: PreTrainedModel, name: str, free_bytes: Iterable[int]) -> dict[str, int]:
    """The GPU of each part of the model, as `from_pretrained(device_map=…)` takes it. `model` may be without values.

    `free_bytes` are those of GPU 0, 1, …; later ones are only asked for if the earlier ones are too small, since a
    look at a GPU takes some of its memory. Raises ModelError if all of them together are too small.
    """
    num_bytes = weights_bytes(model)
    room: dict[int | str, int] = {}
    for gpu, free in enumerate(free_bytes):
        room[gpu] = int(free * WEIGHTS_SHARE)
        if num_bytes <= room[gpu]:
            return {"": gpu}
    if len(room) > 1:
        whole = list(getattr(model, "_no_split_modules", None) or [])
        # Evenly, so that each has as much room left; where that does not work out, one GPU is filled after the other.
        balanced = get_balanced_memory(model, max_memory=dict(room), no_split_module_classes=whole)
        for limits in (balanced, room):
            spread: dict[str, int] = infer_auto_device_map(
                model, max_memory=dict(limits), no_split_module_classes=whole
            )
            if set(spread.values()) <= room.keys():
                return spread
    found = " + ".join(format_bytes(limit) for limit in room.values())
    raise ModelError(
        "model",
        name,
        f"its weights need {format_bytes(num_bytes)}, and the GPUs here have {found} for them ({WEIGHTS_SHARE:.0%} of "
        "what is free): use larger or more GPUs, a smaller model or dtype, or device cpu",
    )


def weights_bytes(model: nn.Module) -> int:
    """Bytes of all weights; those that are used twice count once."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
