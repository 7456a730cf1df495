"""Phase spans of turns that waited for memory."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from latentmas_ray.engine.turn import PhaseSpan

Wait = tuple[float, float]  # begin and end, in wall-clock seconds


def cut_waits(spans: Iterable[PhaseSpan], waits: Sequence[Wait]) -> tuple[PhaseSpan, ...]:
    """Return the spans with each wait as a span of its own. `waits` are in the order of time and do not overlap."""
    return tuple(part for span in spans for part in _parts(span, waits))


def _parts(span: PhaseSpan, waits: Sequence[Wait]) -> Iterator[PhaseSpan]:
    begin = span.begin
    for wait_begin, wait_end in waits:
        if wait_end <= begin or wait_begin >= span.end:
            continue
        if wait_begin > begin:
            yield replace(span, begin=begin, end=wait_begin)
        waited = PhaseSpan(phase="wait", begin=max(begin, wait_begin), end=min(wait_end, span.end))
        yield waited
        begin = waited.end
    if begin < span.end:
        yield replace(span, begin=begin)
