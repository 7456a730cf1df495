"""Plans: slots, memory and transfers, and the suggestions where nothing fits."""

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.config import PlacementName
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement import LinkSpeeds, NodeResources, Plan, PlanRequest, Slot, Workload, make_plan, nodes_alike
from latentmas_ray.placement.link_speeds import parse_speed
from latentmas_ray.placement.strategies import Infeasible, try_plan
from tests.cases.placement import GB, cluster, request

STRATEGIES: tuple[PlacementName, ...] = ("auto", "pack", "spread", "colocate")


def nodes_of(plan: Plan) -> list[set[int]]:
    """The nodes of each chain."""
    chains: dict[int, set[int]] = {}
    for shard in plan.shards():
        chains.setdefault(shard.replica_id.replica, set()).add(shard.slot.node)
    return [chains[replica] for replica in sorted(chains)]


@pytest.mark.parametrize(
    ("placement", "nodes", "chains"),
    [
        ("pack", cluster(4, 8), [{0}]),
        ("auto", cluster(4, 8), [{0}]),
        ("spread", cluster(4, 8), [{0, 1, 2, 3}]),
        ("spread", cluster(16, 8), [{0, 1, 2, 3}]),
        ("spread", cluster(2, 8), [{0, 1}]),
        ("colocate", cluster(4, 8), [{0}]),
    ],
)
@pytest.mark.parametrize("topology", ["sequential", "hierarchical"])
def test_the_reference_machines(
    placement: PlacementName, nodes: tuple[NodeResources, ...], chains: list[set[int]], topology: str
) -> None:
    plan = make_plan(request(nodes, topology=topology, placement=placement))
    assert nodes_of(plan) == chains
    assert plan.share.num_gpus == 1.0
    slots = Counter(shard.slot for shard in plan.shards())
    assert max(slots.values()) == 1


def test_replicas_of_some_agents() -> None:
    plan = make_plan(request(cluster(2, 8), replicas={"planner": 2, "judger": 6}))
    count = Counter(shard.replica_id.agents[0] for shard in plan.shards())
    assert count == {"planner": 2, "critic": 1, "refiner": 1, "judger": 6}
    assert nodes_of(plan)[:2] == [{0}, {0}]


def test_spread_keeps_neighbours_together_where_nodes_are_few() -> None:
    plan = make_plan(request(cluster(2, 8), placement="spread"))
    links = {(one.source, one.reader): set(one.links) for one in plan.hand_overs(LinkSpeeds())}
    assert links["planner", "critic"] == {"nvlink"}
    assert links["critic", "refiner"] == {"network"}
    assert links["refiner", "judger"] == {"nvlink"}


@given(st.integers(1, 6), st.integers(1, 8))
def test_spread_puts_the_replicas_of_an_agent_on_different_nodes(num_replicas: int, num_nodes: int) -> None:
    """No node takes all of them along, and every chain is on as many nodes as another."""
    plan = make_plan(request(cluster(num_nodes, 24), replicas=num_replicas, placement="spread"))
    nodes: dict[str, Counter[int]] = {}
    chains: dict[int, set[int]] = {}
    for replica_id, slots in plan.slots.items():
        nodes.setdefault(replica_id.agents[0], Counter())[slots[0].node] += 1
        chains.setdefault(replica_id.replica, set()).add(slots[0].node)
    assert all(len(counts) == min(num_replicas, num_nodes) for counts in nodes.values())
    assert all(max(counts.values()) == -(-num_replicas // num_nodes) for counts in nodes.values())
    assert {len(chain) for chain in chains.values()} == {min(4, num_nodes)}


def test_auto_says_why_it_did_not_pack() -> None:
    plan = make_plan(request(cluster(2, 4), tp=2))
    assert plan.strategy == "spread"
    assert plan.why == (
        "pack does not fit: a node would need GPUs for a chain of 8 actors, and none has them for more than 4"
    )


def test_auto_shares_weights_where_copies_do_not_fit() -> None:
    assert make_plan(request(cluster(1, 1))).strategy == "colocate"


def test_pack_shares_gpus_to_stay_on_one_node_and_auto_does_not() -> None:
    packed = make_plan(request(cluster(2, 2, gigabytes=None), model=None, placement="pack"))
    assert (nodes_of(packed), packed.share.num_gpus) == ([{0}], 0.5)
    auto = make_plan(request(cluster(2, 2, gigabytes=None), model=None))
    assert (auto.strategy, auto.share.num_gpus) == ("spread", 1.0)


def test_memory_matches_a_calculation_by_hand() -> None:
    plan = make_plan(request(cluster(1, 8), workload=Workload(batch_size=4, prompt_tokens=500, latent_steps=12)))
    judger = plan.memory[Slot(0, 3)]
    per_token = 163_840
    assert judger.weights_bytes == 2 * 14_768_307_200
    assert judger.kv_bytes == 4 * per_token * 2304  # 3 × 512 + 500 + 256 = 2292, in steps of 256
    assert judger.segments_bytes == 4 * per_token * 3 * 512
    moved = plan.hand_overs(LinkSpeeds(nvlink=100e9))
    assert [(one.source, one.reader) for one in moved] == [
        ("planner", "critic"),
        ("planner", "refiner"),
        ("critic", "refiner"),
        ("planner", "judger"),
        ("critic", "judger"),
        ("refiner", "judger"),
    ]
    assert {one.num_bytes for one in moved} == {4 * per_token * 512}
    assert {one.seconds for one in moved} == {4 * per_token * 512 / 100e9}


def test_an_agent_that_writes_question_by_question_holds_as_many_as_it_writes_at_once() -> None:
    workload = Workload(batch_size=4, prompt_tokens=500, latent_steps=12)
    plan = make_plan(request(cluster(1, 8), workload=workload, written_at_once={"judger": 64}))
    per_token = 163_840
    assert plan.memory[Slot(0, 3)].kv_bytes == 64 * per_token * 2304
    assert plan.memory[Slot(0, 3)].segments_bytes == 64 * per_token * 3 * 512
    assert plan.memory[Slot(0, 2)].kv_bytes == 4 * per_token * 1536  # of the refiner


def test_an_agent_apart_has_a_copy_of_the_weights_beside_the_others() -> None:
    alone = request(cluster(1, 1, gigabytes=320), placement="pack", apart=frozenset({"judger"}))
    (memory,) = make_plan(alone).memory.values()
    assert memory.weights_bytes == 4 * 2 * 14_768_307_200
    with pytest.raises(ConfigError) as caught:
        make_plan(replace(alone, placement="colocate"))
    assert str(caught.value).startswith(
        "placement: got 'colocate'; vLLM, which writes for judger, needs an actor of its own; what fits: "
        "--placement pack"
    )


def test_auto_does_not_put_an_agent_apart_into_an_actor_with_others() -> None:
    with pytest.raises(ConfigError, match="gpu_memory: got '80 GB'"):
        make_plan(request(cluster(1, 1), apart=frozenset({"judger"})))


def test_nothing_moves_within_one_actor() -> None:
    plan = make_plan(request(cluster(1, 2), placement="colocate", replicas=2))
    assert len(list(plan.shards())) == 2
    for one in plan.hand_overs(LinkSpeeds()):
        assert set(one.links) == {"same_process"}
        assert one.seconds == 0


def test_ranks_move_their_parts_at_the_same_time() -> None:
    whole, halved = (make_plan(request(cluster(1, 8), placement="pack", tp=tp)) for tp in (1, 2))
    one, other = (plan.hand_overs(LinkSpeeds())[0] for plan in (whole, halved))
    assert one.num_bytes == other.num_bytes
    assert set(one.links) == set(other.links) == {"nvlink"}
    assert one.seconds == 2 * other.seconds


@pytest.mark.parametrize("model", ["qwen3-14b", "qwen2.5-72b", "llama-3.3-70b"])
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("placement", ["spread", "auto"])
def test_no_hand_over_is_faster_than_the_network_of_a_node(model: str, tp: int, placement: PlacementName) -> None:
    """The ranks of a node share it, however many there are."""
    nodes = nodes_alike(4, num_gpus=8, num_cpus=64, gpu_bytes=400 * GB)
    speeds = LinkSpeeds(network=50e9)
    plan = make_plan(request(nodes, placement=placement, tp=tp, model=model))
    over_network = [one for one in plan.hand_overs(speeds) if "network" in one.links]
    assert over_network or placement == "auto"
    for one in over_network:
        assert one.num_bytes / one.seconds == pytest.approx(50e9)


def test_the_network_is_shared_at_the_reader_too() -> None:
    """Two nodes send to one: what arrives there is bounded by its own network."""
    plan = make_plan(request(cluster(2, 8), tp=2, placement="spread"))
    (pair,) = [
        (source, reader)
        for source in plan.slots
        for reader in plan.slots
        if source.agents == ("planner",) and reader.agents == ("judger",)
    ]
    source, reader = pair
    moved = replace(plan, slots={**plan.slots, source: (Slot(0, 0), Slot(1, 0)), reader: (Slot(2, 0), Slot(2, 1))})
    (one,) = [
        one for one in moved.hand_overs(LinkSpeeds(network=1e9)) if (one.source, one.reader) == ("planner", "judger")
    ]
    assert one.num_bytes / one.seconds == pytest.approx(1e9)


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (
            request(cluster(1, 4, gigabytes=24), workload=Workload(latent_steps=40)),
            ["gpu_memory: got '24 GB'", "a GPU needs 41.9 GB", "17.9 GB more"],
        ),
        (request(cluster(1, 8, gigabytes=24), replicas=2), ["--tp 2"]),
        (request(cluster(1, 4), workload=Workload(batch_size=64, latent_steps=40)), ["--batch-size 38", "--tp 2"]),
        (request(cluster(1, 1), placement="pack"), ["--placement colocate"]),
        (
            request(
                cluster(1, 4),
                placement="pack",
                written_at_once={"judger": 64},
                workload=Workload(latent_steps=40),
            ),
            ["gpu_memory: got '80 GB'", "--decode-batch 38"],
        ),
        (request(cluster(1, 4), replicas=2, placement="pack"), ["--replicas 1", "--nodes 2"]),
        (request(cluster(1, 4), tp=8), ["tp: got '8'", "no node has more than 4", "--tp 1"]),
        (request(cluster(1, 8), tp=4, placement="spread"), ["8 GPUs more are needed", "--tp 1", "--nodes 2"]),
        (request(cluster(1, 8), tp=3), ["tp: got '3'", "8 KV heads"]),
        (request(cluster(1, 8), replicas={"judger": 2}, placement="colocate"), ["replicas", "one number"]),
    ],
)
def test_an_infeasible_request_names_what_would_fit(asked: PlanRequest, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(asked)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "change"),
    [
        (request(cluster(1, 4), workload=Workload(batch_size=64)), "--batch-size"),
        (request(cluster(1, 8), tp=4, placement="spread"), "--nodes"),
    ],
)
def test_the_suggestion_is_the_nearest_that_fits(asked: PlanRequest, change: str) -> None:
    from dataclasses import replace

    with pytest.raises(ConfigError) as caught:
        make_plan(asked)
    found = re.search(rf"{change} (\d+)", str(caught.value))
    assert found is not None
    number = int(found[1])
    if change == "--batch-size":
        tried = [replace(asked, workload=replace(asked.workload, batch_size=size)) for size in (number, number + 1)]
    else:
        tried = [replace(asked, nodes=cluster(size, 8)) for size in (number, number - 1)]
    assert isinstance(make_plan(tried[0]), Plan)
    with pytest.raises(ConfigError):
        make_plan(tried[1])


NODES = st.lists(
    st.builds(
        NodeResources,
        num_gpus=st.integers(0, 8),
        num_cpus=st.integers(1, 64),
        gpu_bytes=st.sampled_from([None, 24 * GB, 80 * GB]),
    ),
    min_size=1,
    max_size=6,
)


@given(
    nodes=NODES,
    replicas=st.fixed_dictionaries({name: st.integers(1, 6) for name in ("planner", "critic", "refiner", "judger")}),
    placement=st.sampled_from(STRATEGIES),
    tp=st.sampled_from([1, 1, 2, 4]),
    has_model=st.booleans(),
)
def test_every_plan_can_be_allocated(
    nodes: list[NodeResources], replicas: dict[str, int], placement: PlacementName, tp: int, has_model: bool
) -> None:
    """No GPU or core is over-allocated, every rank has a slot, and a replica's ranks use different GPUs of one node."""
    asked = request(
        tuple(nodes), replicas=replicas, placement=placement, tp=tp, model="qwen3-8b" if has_model else None
    )
    outcome = try_plan(asked)
    if isinstance(outcome, Infeasible):
        assert outcome.reason
        return
    plan, share = outcome, outcome.share
    wanted = {(agent, number) for agent, count in replicas.items() for number in range(count)}
    if plan.is_colocated:
        assert len(set(replicas.values())) == 1
        wanted = {("planner", number) for number in range(replicas["planner"])}
    assert {(replica_id.agents[0], replica_id.replica) for replica_id in plan.slots} == wanted
    assert all(len(slots) == tp for slots in plan.slots.values())
    for slots in plan.slots.values():
        assert len({slot.node for slot in slots}) == 1
        assert slots[0].gpu is None or len({slot.gpu for slot in slots}) == tp
    for slot, count in Counter(shard.slot for shard in plan.shards()).items():
        if slot.gpu is None:
            assert not any(node.num_gpus for node in nodes)
            assert count * share.num_cpus <= nodes[slot.node].num_cpus + 1e-6
        else:
            assert slot.gpu < nodes[slot.node].num_gpus
            assert count * share.num_gpus <= 1 + 1e-6
    for number, count in Counter(shard.slot.node for shard in plan.shards()).items():
        assert count * share.num_cpus <= nodes[number].num_cpus + 1e-6
    for slot, memory in plan.memory.items():
        size = nodes[slot.node].gpu_bytes
        assert slot.gpu is None or size is None or memory.total_bytes <= size


@given(nodes=NODES, replicas=st.integers(1, 6), tp=st.sampled_from([1, 2]))
def test_a_chain_stays_on_one_node_where_it_could(nodes: list[NodeResources], replicas: int, tp: int) -> None:
    asked = request(tuple(nodes), replicas=replicas, tp=tp, model=None)
    plan = try_plan(asked)
    if isinstance(plan, Infeasible) or plan.is_colocated:
        return
    share, size = plan.share, 4 * tp
    if share.num_gpus:
        chains = sum(node.num_gpus * share.actors_per_gpu // size for node in nodes)
        if tp > 1:
            chains = sum((node.whole_gpus // tp) // 4 for node in nodes)
    else:
        chains = sum((share.places_on(node) or 0) // size for node in nodes)
    is_whole = all(len(used) == 1 for used in nodes_of(plan))
    assert is_whole is (chains >= replicas)
    assert plan.strategy == ("pack" if is_whole else "spread")


@given(nodes=NODES, replicas=st.integers(1, 6))
def test_pack_never_leaves_a_node(nodes: list[NodeResources], replicas: int) -> None:
    plan = try_plan(request(tuple(nodes), replicas=replicas, placement="pack", model=None))
    assert isinstance(plan, Infeasible) or all(len(used) == 1 for used in nodes_of(plan))


@pytest.mark.parametrize(
    ("text", "speed"), [("300GB/s", 300e9), ("100Gb/s", 12.5e9), ("100 Gbit/s", 12.5e9), ("1.5TB/s", 1.5e12)]
)
def test_speeds(text: str, speed: float) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "300GB", "300", "0GB/s", "-1GB/s", "fast/s", "none", "GB/s"])
def test_speeds_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        LinkSpeeds.parse({"network": text})
