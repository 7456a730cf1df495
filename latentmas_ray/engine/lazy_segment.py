"""KV that is still in the cache that computed it.

In one process the next agent of a chain continues in the same cache after the memory that it reads: nothing is copied
or stored twice. In all other cases, and before the cache changes, the KV copies itself.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens, D head dim.
"""

from collections.abc import Sequence

from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import KVLayout, KVSource, MergedLayout, Segment
from latentmas_ray.models.cache import BatchCache


class LazyKV(KVSource):
    """The KV of a segment whose question q is in row q of a cache. It is copied when its bytes are first read."""

    def __init__(
        self,
        cache: BatchCache,
        begins: Sequence[int],
        layout: KVLayout,
        kept: Sequence[Sequence[Tensor]] | None = None,
    ) -> None:
        """Refer to `layout.lengths[q]` slots of row q from `begins[q]` on, with `kept` only to some (see
        `BatchCache.copy_out`); the cache detaches it before they change."""
        self.layout = layout
        self._kept = kept
        self._cache: BatchCache | None = cache
        self._begins = tuple(begins)
        self._copied: Tensor | None = None
        # The next turn in the same rows continues from these, and changes them.
        self._states = cache.copy_states() if layout.has_states else []
        cache.attach(self)

    @property
    def is_copied(self) -> bool:
        """Whether its bytes were copied out of the cache."""
        return self._copied is not None

    def buffer(self) -> Tensor:
        if self._copied is None:
            if self._cache is None:
                raise SegmentError("this memory was released: its last reader has read it")
            lengths, has_states = self.layout.lengths, self.layout.has_states
            kv = self._cache.copy_out(
                self._begins, lengths, kept=self._kept, has_states=has_states, states=self._states
            )
            self._copied = kv.buffer()
            self._cache, self._states = None, []
        return self._copied

    def detach(self) -> None:
        """Copy the bytes out of the cache."""
        self.buffer()

    def invalidate(self) -> None:
        """Drop the reference to the cache without a copy. Later reads raise SegmentError."""
        self._cache, self._states = None, []

    def is_in(self, cache: BatchCache, begins: Sequence[int]) -> bool:
        """Whether its questions are in the rows of `cache`, from slots `begins` on, without others in between."""
        return self._cache is cache and self._begins == tuple(begins) and self._kept is None


def holds_exactly(cache: BatchCache, memory: MergedLayout) -> bool:
    """Whether the rows of `cache` hold exactly this memory at its positions, so that a reader can continue there."""
    ends = [0] * len(cache.lengths)
    for placed in memory.segments:
        segment = placed.segment
        kv = segment.kv if isinstance(segment, Segment) else None
        if any(placed.shifts) or not (isinstance(kv, LazyKV) and kv.is_in(cache, ends)):
            return False
        ends = [end + length for end, length in zip(ends, segment.kv_lengths, strict=True)]
    return bool(memory.segments) and ends == cache.lengths
