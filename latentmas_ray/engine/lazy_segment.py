"""Segments that still lie in the cache that computed them.

In one process the next agent of a chain goes on right behind the memory that it reads: nothing is copied out and in
again, and nothing is held twice. Elsewhere, and before anything else happens to the cache, the segment copies itself.

Dimensions: L layers, C 2 (key, value), H KV heads, T tokens, D head dim.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import KVCacheSpec, MergedLayout, RecomputeInputs, Segment
from latentmas_ray.models.cache import BatchCache


class LazySegment(Segment):
    """A segment whose bytes are copied when they are first asked for. Question q lies in row q of the cache."""

    _cache: BatchCache | None
    _begins: tuple[int, ...]

    def __init__(
        self,
        cache: BatchCache,
        begins: Sequence[int],
        *,
        spec: KVCacheSpec,
        lengths: tuple[int, ...],
        turn_starts: tuple[int, ...],
        offsets: tuple[int, ...],
        recompute_inputs: RecomputeInputs,
    ) -> None:
        """The `lengths[q]` slots of row q from `begins[q]` on. The cache settles it before it changes them."""
        values = {
            "spec": spec,
            "lengths": lengths,
            "turn_starts": turn_starts,
            "offsets": offsets,
            "recompute_inputs": recompute_inputs,
        }
        for name, value in {**values, "_cache": cache, "_begins": tuple(begins)}.items():
            object.__setattr__(self, name, value)  # the class is frozen
        cache.lend(self)

    @cached_property
    def kv_LCHTD(self) -> Tensor:  # noqa: N802  # a field there, made on demand here
        if self._cache is None:
            raise SegmentError("this memory was let go of: its last reader has read it")
        kv_LCHTD = self._cache.copy_out(self._begins, self.lengths)
        object.__setattr__(self, "_cache", None)
        return kv_LCHTD

    def settle(self) -> None:
        """Become independent of the cache."""
        assert self.kv_LCHTD is not None

    def abandon(self) -> None:
        """Give up the place in the cache without a copy. Raises SegmentError when read after this."""
        object.__setattr__(self, "_cache", None)

    def lies_in(self, cache: BatchCache, begins: Sequence[int]) -> bool:
        """Whether its questions are in the rows of `cache` from `begins` on."""
        return self._cache is cache and self._begins == tuple(begins)

    def __reduce__(self) -> tuple[Any, ...]:
        return Segment, (self.spec, self.kv_LCHTD, self.lengths, self.turn_starts, self.offsets, self.recompute_inputs)


def is_held(cache: BatchCache, memory: MergedLayout) -> bool:
    """Whether the rows of `cache` hold this memory, where it belongs, and nothing behind it: a reader may go on."""
    ends = [0] * len(cache.lengths)
    for placed in memory.segments:
        segment = placed.segment
        if any(placed.shifts) or not (isinstance(segment, LazySegment) and segment.lies_in(cache, ends)):
            return False
        ends = [end + length for end, length in zip(ends, segment.lengths, strict=True)]
    return bool(memory.segments) and ends == cache.lengths
