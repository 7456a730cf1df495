"""Actors stand where the plan puts them, and what they hand over within one actor does not move."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from latentmas_ray import LatentMAS
from latentmas_ray.actors.cluster import Cluster
from latentmas_ray.actors.replicas import placement_group as placement_group_module
from latentmas_ray.actors.replicas import waiting
from latentmas_ray.errors import ActorError, ClusterError, ConfigError
from latentmas_ray.runs.results import Answer
from latentmas_ray.transport import Loopback
from tests.cases.scheduler import CHAIN, agent, topology
from tests.ray.actor_cases import actors_of, drive, groups, questions_that_wait, wait_until
from tests.ray.stand_ins import StandIn, number_of, turns_in

PAIR = topology(agent("planner"), agent("judger", "planner", thinks="text"))
NAMES = [agent.name for agent in PAIR.agents]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(("placement", "num_actors"), [("spread", 2), ("colocate", 1)])
def test_one_group_with_a_bundle_for_each_actor(tmp_path: Path, placement: str, num_actors: int) -> None:
    with actors_of(NAMES, partial(StandIn, tmp_path), placement=placement) as (_, info):
        (group,) = groups()
        assert len(group["bundles"]) == num_actors
        assert set(group["bundles_to_node_id"].values()) == {ray.nodes()[0]["NodeID"]}
        assert f"{num_actors} actor{'s' if num_actors > 1 else ''} on 1 node" in info.description
        assert "which were taken" not in info.description
    wait_until(lambda: not groups(), "the end of the placement group")


@pytest.mark.usefixtures("cluster")
def test_a_start_that_fails_gives_its_places_back(tmp_path: Path) -> None:
    with pytest.raises(ActorError), actors_of(NAMES[:1], partial(int, "not a number")):
        pass
    wait_until(lambda: not groups(), "the end of the placement group")


@pytest.mark.usefixtures("cluster")
def test_planned_nodes_that_are_taken_are_waited_for_and_then_left_to_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement_group_module, "PINNED_SECONDS", 0.5)
    asked: list[Any] = []
    make = placement_group_module.placement_group

    def observed(*args: Any, **more: Any) -> Any:
        asked.append(more["bundle_label_selector"])
        if more["bundle_label_selector"]:  # as if the node were full
            more["bundle_label_selector"] = [{"ray.io/node-id": "0" * 56} for _ in more["bundle_label_selector"]]
        return make(*args, **more)

    monkeypatch.setattr(placement_group_module, "placement_group", observed)
    with actors_of(NAMES[:1], partial(StandIn, tmp_path)) as (_, info):
        assert "on other nodes than planned" in info.description
        assert len(groups()) == 1
    assert [bool(pins) for pins in asked] == [True, False]
    assert asked[0] == [{"ray.io/node-id": node} for node in Cluster.inspect(owned=False).node_ids]


@pytest.mark.usefixtures("cluster")
def test_colocated_agents_share_an_actor_and_a_batch_keeps_to_one(tmp_path: Path) -> None:
    runtime_of = partial(actors_of, CHAIN, partial(StandIn, tmp_path), placement="colocate", replicas=2)
    with runtime_of(transport=lambda _: (Loopback(), "")) as started:
        answers = drive(*started, CHAIN, questions_that_wait(6, 0.2, size=200), max_batches_in_flight=2)
    turns = turns_in(tmp_path)
    assert len({turn.pid for turn in turns}) == 2
    pairs = ((one, other) for one in turns for other in turns if one.pid < other.pid)
    assert any(one.begin < other.end and other.begin < one.end for one, other in pairs), "replicas work at one time"
    for batch in range(6):
        assert len({turn.pid for turn in turns if turn.batch == batch}) == 1
    for answer in answers.values():
        assert isinstance(answer, Answer)
        for one in answer.transfers:
            assert (one.link, one.moved_bytes, one.transport) == ("same_process", 0, "loopback")
            assert one.num_bytes > 0
    assert [turn for turn in turns if turn.read != {source: number_of(source) for source in turn.read}] == []


@pytest.mark.slow  # `test_calls.py` has colocated agents too
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("topology", "more"),
    [
        ("sequential", {}),
        ("hierarchical", {"replicas": 2, "codec": "bf16"}),
    ],
    ids=["one actor", "two actors, lossy"],
)
def test_colocated_agents_give_the_answers_of_one_process(topology: str, more: dict[str, Any]) -> None:
    """Packed ones do in `test_parity.py`, and all placements on two nodes in `tests/multinode/test_command.py`."""
    # In bfloat16 the number of torch's threads, which placements differ in, may decide a token.
    size = {"latent_steps": 4, "max_new_tokens": 8, "batch_size": 2, "temperature": 0.0}
    fields = {"model": "tiny", "dtype": "float32", "topology": topology, **size}
    questions = [f"What is {number} + 9?" for number in range(4)]
    lossy = {"codec": more["codec"], "transport": "object_store"} if "codec" in more else {}
    answers = {}
    for runtime, given in (("local", lossy), ("ray", {"placement": "colocate", **more})):
        with LatentMAS(runtime=runtime, **fields, **given) as system:
            answers[runtime] = {answer.question: answer.answer_token_ids for answer in system.run(questions)}
    assert answers["ray"] == answers["local"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"placement": "colocate", "replicas": {"judger": 2}}, "all agents share actors"),
        ({"placement": "colocate", "transport": "shared_memory"}, "does not work within one process"),
        ({"placement": "colocate", "transport": "loopback", "codec": "int8"}, "loopback sends nothing"),
        ({"replicas": {"nobody": 2}}, "no agent 'nobody'"),
    ],
)
def test_an_impossible_placement_is_refused_before_anything_starts(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LatentMAS(model="tiny", **fields)


@pytest.mark.usefixtures("cluster")
def test_places_that_others_hold_are_waited_for_with_lines_and_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "NEXT_SECONDS", 0.0)
    num_cpus = ray.cluster_resources()["CPU"]
    taken = placement_group([{"CPU": num_cpus}], name="training")
    assert taken.wait(60)
    wait_until(lambda: not ray.available_resources().get("CPU"), "what the cluster says of its free cores")
    try:
        with (
            pytest.raises(ClusterError, match=r"after 1\.0 s \(start_timeout\) no place was found .* planner, judger"),
            actors_of(PAIR, partial(StandIn, tmp_path), start_seconds=1.0),
        ):
            pass
    finally:
        remove_placement_group(taken)
    assert "waiting for places on the cluster for 2 actors of " in caplog.text
    assert f"free: 0 of {num_cpus:g} CPUs; held by placement group training" in caplog.text
    wait_until(lambda: not groups(), "the end of the placement groups")
