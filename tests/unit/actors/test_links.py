"""The links over which a segment may be read: from where its producer's and its readers' actors are."""

from dataclasses import replace

import pytest

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.replicas.links import LinksByAgents, links_to
from latentmas_ray.actors.replicas.sharded import ShardedReplica, merge_results
from latentmas_ray.config import ActorLink
from latentmas_ray.engine.turn import SegmentRead, TurnResult
from latentmas_ray.memory import TPRank
from tests.cases.memory import SPEC

ONE = ("n0", "gpu-0")
PLACES = {"one": [ONE], "its GPU": [ONE], "its node": [("n0", "gpu-1")], "other": [("n1", "gpu-0")]}


def replica(*places: tuple[str, str | None]) -> ShardedReplica:
    """A replica of one rank per place, loaded."""
    made = ShardedReplica([object()] * len(places), [node for node, _ in places])
    made.accept(
        [
            Loaded(SPEC.of_shard(TPRank(rank, len(places))), "cpu", node, gpu, frozenset())
            for rank, (node, gpu) in enumerate(places)
        ]
    )
    return made


@pytest.mark.parametrize(
    ("readers", "links"),
    [
        ((), set()),
        (("its GPU",), {"same_gpu"}),
        (("its node",), {"same_node"}),
        (("other",), {"cross_node"}),
        (("its GPU", "its node", "other"), {"same_gpu", "same_node", "cross_node"}),
    ],
)
def test_the_links_to_readers(readers: tuple[str, ...], links: set[ActorLink]) -> None:
    assert links_to(replica(ONE), [replica(*PLACES[name]) for name in readers]) == links


def test_every_rank_may_read_from_every_rank() -> None:
    assert links_to(replica(("n0", None), ("n1", None)), [replica(("n1", None), ("n1", None))]) == {
        "same_node",
        "cross_node",
    }


def test_places_are_unknown_while_a_model_is_loading() -> None:
    loading = ShardedReplica([object()], ["n0"])
    assert links_to(replica(ONE), [loading]) is None
    assert links_to(loading, [replica(ONE)]) is None


@pytest.mark.parametrize(
    ("reader", "link"), [("its GPU", "same_gpu"), ("its node", "same_node"), ("other", "cross_node")]
)
def test_a_read_knows_its_link(reader: str, link: str) -> None:
    read = SegmentRead(source="planner", num_bytes=4, transport="cuda_ipc", seconds=1.0)
    location = replica(ONE).new_location(0)
    assert location.record_read(read, replica(*PLACES[reader]).place_of(0)).link == link


def test_a_read_from_an_actor_whose_gpu_is_unknown_is_one_within_its_node() -> None:
    location = ShardedReplica([object()], ["n0"]).new_location(0)
    read = SegmentRead(source="planner", num_bytes=4, transport="nccl", seconds=1.0)
    assert location.record_read(read, replica(ONE).place_of(0)).link == "same_node"


def test_the_farthest_link_of_all_ranks_counts() -> None:
    near = SegmentRead(source="planner", num_bytes=4, transport="nccl", seconds=1.0, link="same_gpu")
    results = [
        TurnResult(agent="judger", prompt_tokens=(), reads=(replace(near, link=link),))
        for link in ("same_gpu", "same_node")
    ]
    assert merge_results(results).reads[0].link == "same_node"


def test_links_are_found_once_until_a_replica_is_another() -> None:
    found = LinksByAgents()
    producer, loading = replica(ONE), ShardedReplica([object()], ["n0"])
    replicas = {"reader": [replica(ONE)], "other": [loading]}
    assert found.links_to(producer, ("reader",), replicas) == {"same_gpu"}
    assert found.links_to(producer, ("reader", "other"), replicas) is None
    loading.accept([Loaded(SPEC, "cpu", "n1", None, frozenset())])
    assert found.links_to(producer, ("reader", "other"), replicas) == {"same_gpu", "cross_node"}
    replicas["reader"].clear()
    assert found.links_to(producer, ("reader",), replicas) == {"same_gpu"}  # it is not looked at again
    assert found.links_to(producer, ("reader",), {"reader": [replica(("n1", None))]}) == {"cross_node"}


def test_ranks_that_read_in_several_ways_name_them_all() -> None:
    near = SegmentRead(source="planner", num_bytes=4, transport="shared_memory", seconds=1.0, link="same_node")
    far = replace(near, transport="tcp", link="cross_node")
    results = [TurnResult(agent="judger", prompt_tokens=(), reads=(read,)) for read in (near, far)]
    (read,) = merge_results(results).reads
    assert (read.transport, read.link, read.num_bytes) == ("shared_memory+tcp", "cross_node", 8)
