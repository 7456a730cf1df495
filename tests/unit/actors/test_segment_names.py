"""Segments between processes: a turn reads the segment that the driver has named, and memory comes back as it left."""

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest

from latentmas_ray.actors.execute_turn import SegmentSender, copy_to_wire, receive_kept
from latentmas_ray.actors.given_memory import GivenMemoryStore
from latentmas_ray.actors.receiver import GivenMemoryReceiver, IncomingSegment, SegmentReceiver, SentChunk
from latentmas_ray.actors.replicas.request import ReplicaRequest
from latentmas_ray.authentication import Authenticator, ChunkId, RunKey
from latentmas_ray.engine.turn import GivenMemory, Prompt, Sampling, TurnRequest
from latentmas_ray.errors import WireError
from latentmas_ray.memory import Memory, SegmentChunk, join
from latentmas_ray.memory.wire import decode_chunk, from_raw
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.transport import ObjectStore, Transport
from tests.cases.memory import SPEC, assert_equal, cut, make_memory, make_segment

SECRET = bytes(range(100, 132))
KEY, OTHER_KEY = RunKey(SECRET), RunKey(b"o" * 32)
SEGMENT, OLDER = make_segment([(3, 2), (2, 1)]), make_segment([(3, 2), (2, 1)], seed=1)


def opened(key: RunKey) -> Transport:
    transport = ObjectStore()
    transport.open(key)
    return transport


def sent(segment: Any, name: str, key: RunKey = KEY, *, in_chunks: bool = True) -> list[SentChunk]:
    """What a turn sends that writes the segment `name`."""
    turn = TurnRequest(
        agent="planner",
        batch=0,
        question_ids=("q0", "q1"),
        prompts=(Prompt(messages=()),) * 2,
        thinks="latent",
        sampling=Sampling(),
        segment_id=name,
    )
    chunks: list[SentChunk] = []
    sender = SegmentSender(opened(key), chunks.append, turn, overlaps=True)
    for chunk in cut(segment, [3, 2]) if in_chunks else [SegmentChunk.whole(segment)]:
        sender.publish(0.0, chunk)
    return chunks


def read(chunks: list[SentChunk], name: str | None = "now", key: RunKey = KEY) -> list[SegmentChunk]:
    incoming = IncomingSegment("planner", chunks[0], [lambda one=one: one for one in chunks[1:]], name)  # type: ignore[misc]
    receiver = SegmentReceiver(opened(key), [incoming], SPEC, idle_since=0.0)
    return [chunk for _, chunk in receiver.chunks()]


def test_the_segment_that_the_driver_has_named_is_read() -> None:
    for in_chunks in (True, False):
        assert_equal(join(read(sent(SEGMENT, "now", in_chunks=in_chunks))), SEGMENT)
        assert_equal(join(read(sent(SEGMENT, "now", in_chunks=in_chunks), None)), SEGMENT)


NOW, BEFORE = sent(SEGMENT, "now"), sent(OLDER, "before")
WRONG = {
    "an older segment": BEFORE,
    "an older segment's beginning": [BEFORE[0], NOW[1]],
    "an older segment's end": [NOW[0], BEFORE[1]],
    "chunks in another order": NOW[::-1],
    "the first chunk twice": [NOW[0], NOW[0]],
    "the last chunk twice": [NOW[1], NOW[1]],
    "another run's segment of this name": sent(SEGMENT, "now", OTHER_KEY),
    "a segment without a name": sent(SEGMENT, ""),
    "another run's end": [NOW[0], sent(SEGMENT, "now", OTHER_KEY)[1]],
    "an older header": [replace(NOW[0], payload=(BEFORE[0].payload[0], NOW[0].payload[1])), NOW[1]],
    "older bytes": [replace(NOW[0], payload=(NOW[0].payload[0], BEFORE[0].payload[1])), NOW[1]],
}


@pytest.mark.parametrize("chunks", WRONG.values(), ids=WRONG)
def test_another_segment_is_refused(chunks: list[SentChunk]) -> None:
    with pytest.raises(WireError):
        read(chunks)


def test_kept_chunks_come_back_as_they_left() -> None:
    authenticator = Authenticator(KEY)
    for chunks in ([SegmentChunk.whole(SEGMENT)], list(cut(SEGMENT, [3, 2]))):
        kept = [copy_to_wire(chunk, authenticator, ChunkId("now", index)) for index, chunk in enumerate(chunks)]
        received = receive_kept(kept, Authenticator(KEY), "now")
        assert_equal(join([decode_chunk(header, from_raw(body)) for header, body in received]), SEGMENT)
        for wrong_key, name in ((OTHER_KEY, "now"), (KEY, "before")):
            with pytest.raises(WireError):
                receive_kept(kept, Authenticator(wrong_key), name)
        header, body = kept[0]
        for altered in ([(header[:-1] + bytes([header[-1] ^ 1]), body)], [(header, body ^ 1)], list(received)):
            with pytest.raises(WireError):
                receive_kept(altered, Authenticator(KEY), "now")


def given_to(memory: Memory, key: RunKey, monkeypatch: pytest.MonkeyPatch) -> tuple[TurnRequest, GivenMemory]:
    """A turn's request as the driver sends it, and what lies in the object store for it."""
    stored: list[GivenMemory] = []
    monkeypatch.setattr("latentmas_ray.actors.given_memory.ray.put", lambda one: stored.append(one))
    given = GivenMemory(reads=memory.reads, segments=memory.to_wire())
    turn = TurnRequest(
        agent="judge",
        batch=0,
        question_ids=("q0",),
        prompts=(Prompt(messages=()),),
        thinks="text",
        sampling=Sampling(),
        reads=(AgentMemory("planner"),),
        given=given,
    )
    return GivenMemoryStore(key).store(turn), stored[0]


def test_given_memory_is_signed_for_the_actors_that_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = make_memory({"planner": (3, 2), "critic": (2, 1)})
    turn, stored = given_to(memory, KEY, monkeypatch)
    assert turn.given is not None
    assert not turn.given.segments
    fetched = replace(stored, segment_id=turn.given.segment_id)
    receiver = GivenMemoryReceiver(fetched, 1, SPEC, Authenticator(KEY))
    assert join([chunk for _, chunk in list(receiver.chunks())[:1]]).spec == SPEC
    _, older = given_to(memory, KEY, monkeypatch)
    swapped = dict(zip(stored.segments, reversed(stored.segments.values()), strict=True))
    plain = GivenMemory(reads=memory.reads, segments=memory.to_wire()).segments
    for segments, key in (
        (stored.segments, OTHER_KEY),
        (older.segments, KEY),
        (swapped, KEY),
        (plain, KEY),
        ({name: (header, body ^ 1) for name, (header, body) in stored.segments.items()}, KEY),
    ):
        with pytest.raises(WireError):
            GivenMemoryReceiver(replace(fetched, segments=segments), 1, SPEC, Authenticator(key))


def test_the_key_is_in_nothing_that_is_sent_but_the_constructors_arguments() -> None:
    transport = opened(KEY)
    payload = transport.pack(SegmentChunk.whole(SEGMENT), ChunkId("now"))
    turn = sent(SEGMENT, "now")
    request = ReplicaRequest(agents=("a",), replicas={"a": 1}, make_runner=print, key=KEY)
    for thing in (payload, transport, copy.copy(transport), turn):
        assert SECRET not in pickle.dumps(thing)
        assert KEY.derive("handles") not in pickle.dumps(thing)
    assert SECRET.hex() not in repr(request)
    assert repr(SECRET) not in repr(request)
