"""One transport per kind of link: each reader takes that of its own link to the producer."""

import pickle
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from latentmas_ray.authentication import RunKey
from latentmas_ray.config import ActorLink
from latentmas_ray.errors import TransferError, WireError
from latentmas_ray.memory import SegmentChunk, join
from latentmas_ray.transport import DeviceLayout, ObjectStore, PerLink, Place, SharedMemory, Tcp, pick_transport
from tests.cases.memory import SPEC, make_segment

HERE = Place("n0", "gpu-0")
READERS: dict[ActorLink, Place] = {
    "same_gpu": Place("n0", "gpu-0"),
    "same_node": Place("n0", "gpu-1"),
    "cross_node": Place("n1", "gpu-0"),
}
NAMES: dict[ActorLink, str] = {"same_gpu": "tcp", "same_node": "shared_memory", "cross_node": "object_store"}


@pytest.fixture
def ends() -> Iterator[dict[ActorLink | None, PerLink]]:
    """The transport at the producer (None), and at a reader on each link."""
    made = PerLink(
        {"same_gpu": Tcp(5.0, shares_memory=False), "same_node": SharedMemory(), "cross_node": ObjectStore()}
    )
    key = RunKey.generate()
    places: dict[ActorLink | None, Place] = {None: HERE, **READERS}
    opened = {link: pickle.loads(pickle.dumps(made)).at(place) for link, place in places.items()}
    for one in opened.values():
        one.open(key)
    yield opened
    for one in opened.values():
        one.close()


def test_each_reader_takes_the_transport_of_its_link(ends: dict[ActorLink | None, PerLink]) -> None:
    segment = make_segment([(5, 2), (1, 0)])
    payload = pickle.loads(pickle.dumps(ends[None].pack(SegmentChunk.whole(segment))))
    for link in READERS:
        ends[link].fetch(payload)
        chunk = ends[link].unpack(payload, expected=SPEC)
        assert torch.equal(join([chunk]).kv_LCHTD, segment.kv_LCHTD)
        assert ends[link].name_of(payload) == NAMES[link]
    ends[None].release(payload)
    with pytest.raises(TransferError, match="released"):
        ends["same_gpu"].unpack(payload, expected=SPEC)


@pytest.mark.parametrize("link", READERS)
def test_only_what_the_readers_need_is_packed(ends: dict[ActorLink | None, PerLink], link: ActorLink) -> None:
    segment = make_segment([(5, 2)])
    payload = ends[None].for_links([link]).pack(SegmentChunk.whole(segment))
    assert payload.handle.names == (NAMES[link],)
    assert torch.equal(join([ends[link].unpack(payload, expected=SPEC)]).kv_LCHTD, segment.kv_LCHTD)
    for other in set(READERS) - {link}:
        with pytest.raises(
            TransferError, match=f"the segment was not sent over {other}: its reader is not where it was"
        ):
            ends[other].unpack(payload, expected=SPEC)


def test_a_transport_of_two_links_packs_once() -> None:
    shared, both = SharedMemory(), Tcp(5.0)
    assert PerLink({"same_node": both, "cross_node": both}).name == "same_node=tcp,cross_node=tcp"
    made = PerLink({"same_gpu": shared, "same_node": both, "cross_node": both})
    made.open()
    payload = made.pack(SegmentChunk.whole(make_segment([(5, 2)])))
    assert payload.handle.names == ("shared_memory", "tcp")
    made.close()


def test_a_place_that_was_altered_is_noticed(ends: dict[ActorLink | None, PerLink]) -> None:
    payload = ends[None].pack(SegmentChunk.whole(make_segment([(5, 2)])))
    moved = replace(payload, handle=replace(payload.handle, node="n1"))
    with pytest.raises(WireError, match="its tag does not match"):
        ends["same_node"].unpack(moved, expected=SPEC)
    with pytest.raises(WireError, match="the payload is not that of several transports"):
        ends["same_node"].unpack(payload.payloads[0], expected=SPEC)


@pytest.mark.parametrize("links", [["same_gpu"], ["same_gpu", "same_node"]])
def test_actors_on_one_gpu_use_what_the_node_has(links: list[ActorLink]) -> None:
    made = PerLink({"same_node": SharedMemory(), "cross_node": ObjectStore()}, HERE)
    made.open()
    payload = made.for_links(links).pack(SegmentChunk.whole(make_segment([(5, 2)])))
    assert payload.handle.names == ("shared_memory",)
    assert made.unpack(payload, expected=SPEC).is_whole
    made.close()


def test_what_was_packed_is_released_if_another_transport_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, store = SharedMemory(), ObjectStore()
    made = PerLink({"same_node": shared, "cross_node": store}, HERE)
    made.open()
    released: list[object] = []
    monkeypatch.setattr(shared, "release", released.append)

    def fail(*_: object) -> None:
        raise TransferError("no memory")

    monkeypatch.setattr(store, "pack", fail)
    with pytest.raises(TransferError, match="no memory"):
        made.pack(SegmentChunk.whole(make_segment([(5, 2)])))
    assert len(released) == 1
    made.close()


def test_the_codec_is_that_of_all() -> None:
    nodes = DeviceLayout(nodes="several", available=frozenset({"memfd"}))
    transport, _ = pick_transport({"cross_node": "object_store"}, "int8", nodes)
    assert isinstance(transport, PerLink)
    assert transport.codec == "int8"
    both = Tcp(5.0)
    made = PerLink({"same_node": both, "cross_node": both}).with_codec("int8")
    made.open()  # one transport, once
    chunk = SegmentChunk.whole(make_segment([(5, 2)]))
    stats = made.unpack(made.pack(chunk), expected=SPEC).codec_stats
    assert stats is not None
    assert stats.codec == "int8"
    made.close()


def test_what_all_can_do_and_what_one_needs() -> None:
    made = PerLink({"same_node": SharedMemory(), "cross_node": Tcp()}).capabilities
    assert made.links == {"same_node", "cross_node"}
    assert not made.survives_producer
    assert made.readers_keep
    assert PerLink({"cross_node": ObjectStore()}).with_codec("int8").codec == "int8"
