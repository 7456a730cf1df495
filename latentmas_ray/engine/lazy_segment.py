"""KV that still lies in the cache that computed it.

In one process the next agent of a chain continues right behind the memory that it reads: nothing is copied out and in
again, and nothing is held twice. Elsewhere, and before anything else happens to the cache, the KV copies itself.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens, D head dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import KVLayout, KVSource, MergedLayout, Segment
from latentmas_ray.models.cache import BatchCache


class LazyKV(KVSource):
    """The KV of a segment whose question q lies in row q of a cache. It is copied when its bytes are first needed."""

    def __init__(self, cache: BatchCache, begins: Sequence[int], layout: KVLayout) -> None:
        """The `layout.lengths[q]` slots of row q from `begins[q]` on. The cache detaches it before it changes them."""
        self.layout = layout
        self._cache: BatchCache | None = cache
        self._begins = tuple(begins)
        self._copied: Tensor | None = None
        cache.attach(self)

    @property
    def is_copied(self) -> bool:
        """Whether it has bytes of its own."""
        return self._copied is not None

    def buffer(self) -> Tensor:
        if self._copied is None:
            if self._cache is None:
                raise SegmentError("this memory was released: its last reader has read it")
            kv_LCHTD = self._cache.copy_out(self._begins, self.layout.lengths)
            self._copied = kv_LCHTD.reshape(-1).view(torch.uint8)
            self._cache = None
        return self._copied

    def detach(self) -> None:
        """Become independent of the cache."""
        self.buffer()

    def invalidate(self) -> None:
        """Give up the place in the cache without a copy. Raises SegmentError when read after this."""
        self._cache = None

    def is_in(self, cache: BatchCache, begins: Sequence[int]) -> bool:
        """Whether its questions are in the rows of `cache` from `begins` on."""
        return self._cache is cache and self._begins == tuple(begins)


def holds_exactly(cache: BatchCache, memory: MergedLayout) -> bool:
    """Whether the rows of `cache` hold this memory, where it belongs, and nothing behind it: a reader may continue."""
    ends = [0] * len(cache.lengths)
    for placed in memory.segments:
        segment = placed.segment
        kv = segment.kv if isinstance(segment, Segment) else None
        if any(placed.shifts) or not (isinstance(kv, LazyKV) and kv.is_in(cache, ends)):
            return False
        ends = [end + length for end, length in zip(ends, segment.lengths, strict=True)]
    return bool(memory.segments) and ends == cache.lengths
