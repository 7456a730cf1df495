"""Questions for engines that write texts, and a loop that drives such an engine."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from latentmas_ray.memory import MergedLayout, SegmentChunk
from latentmas_ray.writing.question_memory import question_memories
from latentmas_ray.writing.text_engine import MemoryPart, QuestionMemory, TextEnd, TextEngine, TextRequest


def question_memory(merged: MergedLayout, chunks: Mapping[str, SegmentChunk] | None = None) -> QuestionMemory:
    """The memory of a layout of one question; of other chunks than its own segments' if they are given."""
    own = dict(merged.chunks()) if chunks is None else chunks
    if not (spec := merged.segments[0].segment.spec).is_uniform:
        (memory,) = question_memories(spec, merged, own.items())
        assert memory is not None
        return memory
    parts, slot = [], 0
    for placed in merged.segments:
        chunk, shift = own[placed.agent], placed.shifts[0]
        where = chunk.positions_of(0, shift)
        parts += [
            MemoryPart(kv_LCHTD=kv_LCHTD, first_slot=slot, shift=shift, first_head=head, positions=where)
            for head, kv_LCHTD in chunk.head_views(0)
        ]
        slot += placed.segment.lengths[0]
    return QuestionMemory(parts=parts, num_tokens=slot, next_position=merged.next_positions[0])


@dataclass
class Written:
    """What an engine has written for one question."""

    tokens: list[int] = field(default_factory=list)
    end: TextEnd | None = None
    error: str = ""


def write_all(
    engine: TextEngine,
    requests: Iterable[TextRequest],
    *,
    waits: Sequence[int] = (),
    aborted: Mapping[str, int] | None = None,
) -> dict[str, Written]:
    """Have texts written for all requests, in their order: request i starts `waits[i]` steps after the one before it,
    or as soon as there is room. A key of `aborted` is aborted once it has so many tokens."""
    waiting = list(requests)
    left = list(waits) + [0] * (len(waiting) - len(waits))
    written: dict[str, Written] = {}
    running: set[str] = set()
    while waiting or running:
        while waiting and (left[0] <= 0 or not running) and engine.can_start(waiting[0]):
            request = waiting.pop(0)
            left.pop(0)
            engine.start(request)
            written[request.key] = Written()
            running.add(request.key)
        if left:
            left[0] -= 1
        for output in engine.step():
            assert output.key in running, f"{output.key} does not run"
            one = written[output.key]
            one.tokens += output.token_ids
            one.end, one.error = output.end, output.error
            is_aborted = len(one.tokens) == (aborted or {}).get(output.key)
            if is_aborted:
                engine.abort({output.key, "unknown"})
            if is_aborted or output.end is not None:
                running.discard(output.key)
    assert engine.step() == []
    return written
