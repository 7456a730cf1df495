"""Which tokens of a segment each layer keeps, where not all layers keep all: eviction, sliding windows."""

from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Any

from latentmas_ray.errors import SegmentError, WireError

# Of one question: ranges [first, stop), in order and apart. Of a layer: those of each question.
Ranges = tuple[tuple[int, int], ...]
LayerTokens = tuple[Ranges, ...]
KeptTokens = tuple[LayerTokens, ...]


def check_kept(kept: KeptTokens, num_layers: int, lengths: Sequence[int]) -> None:
    """Raises SegmentError, which names the layer, unless these are ranges of `lengths[q]` tokens of each question."""
    if len(kept) != num_layers:
        raise SegmentError(f"kept tokens of {len(kept)} layers, the model has {num_layers}")
    checked: set[LayerTokens] = set()
    for number, layer in enumerate(kept):
        if layer in checked:
            continue
        checked.add(layer)
        if len(layer) != len(lengths):
            raise SegmentError(f"layer {number} keeps tokens of {len(layer)} questions, not of {len(lengths)}")
        for ranges, length in zip(layer, lengths, strict=True):
            edges = [edge for pair in ranges for edge in pair]
            is_ordered = all(first < second for first, second in pairwise(edges))
            if edges and not (is_ordered and edges[0] >= 0 and edges[-1] <= length):
                raise SegmentError(f"layer {number} keeps {ranges} of {length} tokens: they must be in order and apart")


def count_kept(layer: LayerTokens, windows: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Of each question, how many of the tokens [begin, begin + length) a layer keeps."""
    return tuple(
        sum(max(0, min(stop, begin + length) - max(first, begin)) for first, stop in ranges)
        for ranges, (begin, length) in zip(layer, windows, strict=True)
    )


def kept_to_header(kept: KeptTokens | None) -> list[Any] | None:
    """For the wire: [tokens of a layer, how many layers keep the same], in order."""
    if kept is None:
        return None
    return [[[[list(pair) for pair in own] for own in layer], len(list(same))] for layer, same in groupby(kept)]


def kept_from_header(header: Any, num_layers: int) -> KeptTokens | None:
    """The inverse of `kept_to_header` for a model of so many layers. Raises WireError for anything else."""
    if header is None:
        return None
    kept: list[LayerTokens] = []
    try:
        for layer, count in header:
            tokens = tuple(tuple((_count(first), _count(stop)) for first, stop in ranges) for ranges in layer)
            if not 0 < _count(count) <= num_layers - len(kept):
                raise ValueError(f"{count} layers of {num_layers - len(kept)} that are left")
            kept += [tokens] * count
    except (TypeError, ValueError) as error:
        raise WireError(f"the segment's kept tokens cannot be read: {error}") from error
    return tuple(kept)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of tokens or layers")
    return value
