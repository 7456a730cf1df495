"""Writes a question's memory into the paged cache of vLLM.

Each attention layer of vLLM writes keys and values itself (`do_kv_cache_update`): only it knows the layout of its
blocks, which depends on the backend and, on CPUs, on the instruction set.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens, D head dim.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import KVCacheSpec, rotate_keys
from latentmas_ray.vllm.registry import Ropes, WriteStats
from latentmas_ray.writing.text_engine import MemoryPart, QuestionMemory


class CacheWriter(Protocol):
    """The part of a vLLM attention backend that writes to the cache."""

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """Write `key` and `value` [T, H, D] into the slots [T]."""


class PagedLayer(Protocol):
    """The part of a vLLM attention layer that is used here."""

    kv_cache: Tensor
    impl: CacheWriter


@dataclass(frozen=True, kw_only=True)
class PagedSpan:
    """Tokens [first, stop) of a request, and all blocks of the request."""

    first: int
    stop: int
    block_ids: Sequence[int]
    block_size: int

    def slots(self, device: torch.device) -> Tensor:
        """The slot of each token, int64 [T]."""
        tokens_T = torch.arange(self.first, self.stop)
        blocks_T = torch.tensor(self.block_ids)[tokens_T // self.block_size]
        return (blocks_T * self.block_size + tokens_T % self.block_size).to(device)

    @property
    def own_blocks(self) -> Sequence[int]:
        """The blocks that hold these tokens."""
        return self.block_ids[self.first // self.block_size : -(-self.stop // self.block_size)]


def check_memory(memory: QuestionMemory, spec: KVCacheSpec) -> None:
    """Raise SegmentError unless the parts have the spec's shape and fill all slots of all heads exactly once."""
    for part in memory.parts:
        num_layers, num_kinds, _, _, head_dim = part.kv_LCHTD.shape
        if (num_layers, num_kinds, head_dim) != (spec.num_layers, 2, spec.head_dim):
            raise SegmentError(
                f"memory has {num_layers} layers × {num_kinds} tensors of head dim {head_dim}, "
                f"the model {spec.num_layers} × 2 of {spec.head_dim}"
            )
        if part.kv_LCHTD.dtype != spec.torch_dtype:
            raise SegmentError(f"memory is {part.kv_LCHTD.dtype}, the model {spec.torch_dtype}")
    end = 0
    for (first, stop, _), parts in _by_slots(memory.parts):
        if first != end:
            raise SegmentError(f"memory is missing or duplicate: slot {end} is followed by a part from {first} on")
        heads = [head for part in parts for head in range(part.first_head, part.first_head + part.kv_LCHTD.shape[2])]
        if heads != list(range(spec.num_kv_heads)):
            raise SegmentError(f"memory has heads {heads} in slots {first} to {stop}, the model {spec.num_kv_heads}")
        end = stop
    if end != memory.num_tokens:
        raise SegmentError(f"memory fills {end} of {memory.num_tokens} slots")


@torch.inference_mode()
def write_memory(
    layers: Sequence[PagedLayer], memory: QuestionMemory, ropes: Ropes, span: PagedSpan, stats: WriteStats
) -> None:
    """Write the memory's tokens of `span` into the cache; adds to `stats`.

    In vLLM a position is an index in the sequence, so the prompt begins at position N, the number of the memory's
    tokens. Where it began at `next_position` > N for the agents, every key is rotated by the difference: then all
    distances are the same. Raises what torch and the layers raise.
    """
    device = layers[0].kv_cache.device
    is_cpu = device.type == "cpu"
    slots_T = span.slots(device)
    extra = memory.num_tokens - memory.next_position
    for first, stop, shift, kv_LCHTD, is_joined in _same_slots(memory.parts, span):
        shift += extra
        part_slots_T = slots_T[first - span.first : stop - span.first]
        num_bytes = kv_LCHTD.numel() * kv_LCHTD.itemsize
        stats.written_bytes += num_bytes
        stats.staged_bytes += num_bytes if is_joined else 0
        # To a GPU all layers at once, still as they were sent: then rotated and laid out there.
        for layer, kv_CHTD, rope in zip(layers, kv_LCHTD.to(device, non_blocking=True), ropes, strict=True):
            key_THD = rotate_keys(kv_CHTD[0], shift, rope).transpose(0, 1)
            value_THD = kv_CHTD[1].transpose(0, 1)
            if not is_cpu:  # the kernels of CPUs take any strides, those of GPUs need the heads of a token adjacent
                key_THD, value_THD = key_THD.contiguous(), value_THD.contiguous()
            layer.impl.do_kv_cache_update(layer, key_THD, value_THD, layer.kv_cache, part_slots_T)
        stats.staged_bytes += num_bytes if not is_cpu else num_bytes // 2 if shift else 0
    stats.num_loads += 1
    stats.num_tokens += span.stop - span.first


def _same_slots(parts: Sequence[MemoryPart], span: PagedSpan) -> Iterator[tuple[int, int, int, Tensor, bool]]:
    """Yield the memory within `span`, parts of the same slots with their heads joined: the first slot, the end, the
    shift, the KV [L, 2, H, T, D], and whether it was joined."""
    for (begin, end, shift), same in _by_slots(parts):
        first, stop = max(begin, span.first), min(end, span.stop)
        if first >= stop:
            continue
        views = [part.kv_LCHTD[:, :, :, first - begin : stop - begin] for part in same]
        yield first, stop, shift, views[0] if len(views) == 1 else torch.cat(views, dim=2), len(views) > 1


def _by_slots(parts: Sequence[MemoryPart]) -> Iterator[tuple[tuple[int, int, int], list[MemoryPart]]]:
    """Yield (first slot, end, shift) in order, each with its parts in the order of their heads."""

    def slots(part: MemoryPart) -> tuple[int, int, int]:
        return part.first_slot, part.first_slot + part.kv_LCHTD.shape[3], part.shift

    for key, same in groupby(sorted(parts, key=lambda part: (*slots(part), part.first_head)), slots):
        yield key, list(same)
