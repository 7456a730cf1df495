"""Which waiting time of a turn counts as exposed, and what is recorded for each source."""

import time
from collections.abc import Sequence
from dataclasses import replace

from latentmas_ray.actors.execute_turn import stamp_send_time
from latentmas_ray.actors.receiver import IncomingSegment, SegmentReceiver, SentChunk
from latentmas_ray.engine.turn import SegmentRead, TurnResult
from latentmas_ray.memory import SegmentChunk, join
from latentmas_ray.transport import Loopback
from tests.cases.memory import SPEC, assert_equal, cut, make_segment

LONG_AGO = 1000.0
SEGMENT = make_segment([(3, 2), (2, 1)])


def absorbed(incoming: Sequence[IncomingSegment], *, idle_since: float) -> tuple[SegmentRead, ...]:
    receiver = SegmentReceiver(Loopback(), incoming, SPEC, idle_since=idle_since)
    for _ in receiver.chunks():
        pass
    return receiver.transfers(())


def test_chunks_that_come_later_complete_the_segment() -> None:
    first, last = cut(SEGMENT, [3, 2])
    incoming = IncomingSegment("planner", SentChunk(0.0, first), [lambda: SentChunk(0.0, last)])
    receiver = SegmentReceiver(Loopback(), [incoming], SPEC, idle_since=0.0)
    assert receiver.segments() == {"planner": first.meta}
    assert_equal(join([chunk for _, chunk in receiver.chunks()]), SEGMENT)
    (read,) = receiver.transfers(())
    assert read.num_bytes == SEGMENT.meta.num_bytes


def test_the_lengths_of_a_turn_that_may_end_early_come_with_its_last_chunk() -> None:
    """A reader waits for them once, before it says where everything is; the first chunk has arrived by then."""
    first, last = cut(SEGMENT, [3, 2])
    longer = tuple(length + 7 for length in SEGMENT.lengths)
    at_most = replace(SEGMENT.meta, lengths=longer, turn_lengths=longer, is_open=True)
    calls = []

    def wait() -> SentChunk:
        calls.append(1)
        return SentChunk(0.0, last)

    incoming = IncomingSegment("planner", SentChunk(0.0, replace(first, meta=at_most)), [wait])
    receiver = SegmentReceiver(Loopback(), [incoming], SPEC, idle_since=0.0)
    assert receiver.segments() == receiver.segments() == {"planner": SEGMENT.meta}
    assert_equal(join(list(receiver.chunks_of("planner"))), SEGMENT)
    assert len(calls) == len(receiver.waits) == 1
    (read,) = receiver.transfers(())
    assert read.num_bytes == SEGMENT.meta.num_bytes


def test_the_way_to_a_reader_that_was_idle_is_exposed() -> None:
    final_at = time.time() - LONG_AGO
    (read,) = absorbed([IncomingSegment("planner", SentChunk(final_at, SegmentChunk.whole(SEGMENT)))], idle_since=0.0)
    assert read.exposed_seconds >= LONG_AGO
    assert read.seconds >= read.exposed_seconds  # the way is part of the transfer


def test_what_was_looked_at_before_memory_left_is_not_exposed() -> None:
    chunk = SentChunk(time.time() - LONG_AGO, SegmentChunk.whole(SEGMENT))
    for seconds, is_exposed in [(0.0, True), (LONG_AGO, False)]:
        report = TurnResult(agent="planner", prompt_tokens=(3, 2), trace_seconds=seconds)
        (read,) = absorbed([IncomingSegment("planner", stamp_send_time(chunk, report))], idle_since=0.0)
        assert (read.exposed_seconds >= LONG_AGO) == is_exposed


def test_what_a_reader_did_meanwhile_is_not_exposed() -> None:
    """It was busy with another turn, or this one had not been submitted."""
    final_at = time.time() - LONG_AGO
    (read,) = absorbed(
        [IncomingSegment("planner", SentChunk(final_at, SegmentChunk.whole(SEGMENT)))], idle_since=time.time()
    )
    assert read.exposed_seconds < LONG_AGO / 2
    assert read.exposed_seconds <= read.seconds < LONG_AGO / 2


def test_only_the_last_memory_that_becomes_final_is_waited_for() -> None:
    now = time.time()
    early, late = (
        IncomingSegment(name, SentChunk(now - ago, SegmentChunk.whole(SEGMENT)))
        for name, ago in (("early", 2 * LONG_AGO), ("late", 1.0))
    )
    reads = absorbed([early, late], idle_since=0.0)
    assert sum(read.exposed_seconds for read in reads) < LONG_AGO


def test_recompute_inputs_count_with_their_own_bytes() -> None:
    receiver = SegmentReceiver(
        Loopback(), [IncomingSegment("planner", SentChunk(0.0, SegmentChunk.whole(SEGMENT)))], SPEC, idle_since=0.0
    )
    list(receiver.chunks_of("planner"))
    (read,) = receiver.transfers({"planner"})
    assert (read.transfer_mode, read.num_bytes) == ("recompute", sum(SEGMENT.recompute_inputs.bytes_per_question))
