"""How many bytes the cache of our own text engine may take, next to the other actors of its device."""

import os

import torch

from latentmas_ray.models import LanguageModel
from latentmas_ray.placement.cache_size import DEVICE_SHARE, bytes_on_host
from latentmas_ray.placement.memory_estimate import FIXED_BYTES, FORWARD_TOKENS

_MLP_FACTOR = 4  # the MLP's width, assumed, in hidden sizes
_LOGITS_BYTES = 8  # float32 logits and a sorted copy, per question and vocabulary entry


def cache_bound(lm: LanguageModel, *, max_running: int, share: float, executes_turns: bool) -> int:
    """Return the bytes of KV for texts, after a model is loaded.

    `share` is the part of the device, or of the node's cores, that this process has. On a GPU the cache gets what the
    weights and a forward leave of that, on a CPU a part of the memory. `executes_turns`: whole turns run on the same
    model, for traces or to compute memory again; their cache takes as much as that of texts.
    """
    if lm.device.type == "cuda":
        left = min(_left_on(device, lm, max_running, share) for device in set(lm.layer_devices))
    else:
        host_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        left = bytes_on_host(host_bytes=host_bytes, share=share, wanted=host_bytes)
    return left // 2 if executes_turns else left


def left_on_gpu(
    *, gpu_bytes: int, share: float, weights_bytes: int, hidden_size: int, vocab_size: int, itemsize: int, rows: int
) -> int:
    """Return the bytes that weights and one forward with logits of `rows` questions leave of a part of a GPU."""
    activations = (FORWARD_TOKENS + rows) * (8 + 3 * _MLP_FACTOR) * hidden_size * itemsize
    used = weights_bytes + FIXED_BYTES + activations + rows * vocab_size * _LOGITS_BYTES
    return max(0, int(DEVICE_SHARE * share * gpu_bytes) - used)


def _left_on(device: torch.device, lm: LanguageModel, max_running: int, share: float) -> int:
    """What a GPU has left, for all layers: those that lie on it take as much of it as they are."""
    left = left_on_gpu(
        gpu_bytes=torch.cuda.get_device_properties(device).total_memory,
        share=share,
        weights_bytes=sum(one.numel() * one.element_size() for one in lm.model.parameters() if one.device == device),
        hidden_size=lm.spec.hidden_size,
        vocab_size=lm.num_embeddings,
        itemsize=lm.spec.torch_dtype.itemsize,
        rows=max_running,
    )
    return left * len(lm.layer_devices) // lm.layer_devices.count(device)
