"""The search for the layout with the most questions per second."""

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.config import devices_by_agents, parse_replicas, replicas_by_agent
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement import (
    LinkSpeeds,
    NodeResources,
    Plan,
    PlanRequest,
    Workload,
    hardware_named,
    make_plan,
    nodes_alike,
)
from latentmas_ray.placement.gpu_memory import GpuMemory, rows_on, written_at_once
from latentmas_ray.placement.prediction.layout_plans import fits, plan_layout
from latentmas_ray.placement.prediction.layout_search import LayoutSearch, PredictedPlan
from latentmas_ray.placement.prediction.layouts import Layout, contents_of, divide, layouts_for, rate_of
from latentmas_ray.placement.prediction.run_layout import run_fields, run_flags
from latentmas_ray.placement.prediction.throughput import most_per_second, predict
from latentmas_ray.placement.prediction.turn_costs import PhaseCost, TurnCost
from tests.cases.layouts import simulate_chain
from tests.cases.placement import cluster, request

_NONE = PhaseCost()
PUBLISHED = {"planner": 0.3, "critic": 0.3, "refiner": 0.3, "judger": 20.0}  # of a batch: to think, and to answer


def every_layout(agents: tuple[str, ...], num_devices: int) -> Iterator[Layout]:
    """All layouts that use all devices, with any agents on any of them."""
    kinds = [chosen for count in range(1, len(agents) + 1) for chosen in combinations(agents, count)]
    for bars in combinations(range(num_devices + len(kinds) - 1), len(kinds) - 1):
        ends = (-1, *bars, num_devices + len(kinds) - 1)
        counts = [ends[number + 1] - ends[number] - 1 for number in range(len(kinds))]
        layout = Layout({kind: count for kind, count in zip(kinds, counts, strict=True) if count})
        if all(layout.replicas(agents).values()):
            yield layout


def chain(seconds: Mapping[str, float], *, apart: bool = True) -> PlanRequest:
    return PlanRequest(
        agents=tuple(seconds),
        replicas=dict.fromkeys(seconds, 1),
        nodes=cluster(1, 8),
        apart=frozenset(list(seconds)[-1:]) if apart else frozenset(),
    )


def best(seconds: Mapping[str, float], num_devices: int, *, apart: bool = True) -> Layout:
    return max(layouts_for(chain(seconds, apart=apart), seconds, num_devices), key=lambda one: rate_of(one, seconds))


def devices_of(layout: Layout) -> list[tuple[str, ...]]:
    return [contents for contents, count in layout.counts.items() for _ in range(count)]


@pytest.mark.parametrize("apart", [True, False])
def test_published_proportions_on_eight_gpus(apart: bool) -> None:
    found = best(PUBLISHED, 8, apart=apart)
    limit = 8 / sum(PUBLISHED.values())  # of any layout: no device ever idle
    today = 1 / max(PUBLISHED.values())  # one actor for each agent
    reached = simulate_chain(PUBLISHED, devices_of(found), 400)
    assert reached >= 0.9 * limit
    assert reached >= 5 * today
    assert reached == pytest.approx(rate_of(found, PUBLISHED), rel=0.05)


def test_published_proportions_without_a_shared_gpu() -> None:
    own = [one for one in layouts_for(chain(PUBLISHED), PUBLISHED, 8) if set(map(len, one.counts)) == {1}]
    assert [one.counts for one in own] == [{("planner",): 1, ("critic",): 1, ("refiner",): 1, ("judger",): 5}]


times = st.floats(0.1, 20)


def settings(count: int, *, num_agents: tuple[int, int]) -> Iterator[tuple[dict[str, float], int]]:
    """Random seconds of agents, every other one short, and numbers of devices."""
    random = Random(20)
    for _ in range(count):
        names = [f"agent{number}" for number in range(random.randint(*num_agents))]
        ranges = [random.choice([(0.1, 1.0), (1.0, 20.0)]) for _ in names]
        yield {name: random.uniform(*one) for name, one in zip(names, ranges, strict=True)}, random.randint(2, 8)


def test_the_search_is_near_the_best_of_all_layouts() -> None:
    for seconds, _ in settings(20, num_agents=(3, 3)):
        most = max(rate_of(layout, seconds) for layout in every_layout(tuple(seconds), 4))
        assert rate_of(best(seconds, 4), seconds) >= 0.9 * most, seconds


def test_the_search_is_near_the_best_of_all_layouts_on_eight_gpus() -> None:
    for seconds in ({"a": 0.3, "b": 0.3, "c": 20.0}, {"a": 3.0, "b": 4.0, "c": 9.0}, {"a": 9.0, "b": 0.2, "c": 5.0}):
        most = max(rate_of(layout, seconds) for layout in every_layout(("a", "b", "c"), 8))
        assert rate_of(best(seconds, 8), seconds) >= 0.9 * most


def test_the_predicted_rate_is_what_a_simulation_reaches() -> None:
    for seconds, num_devices in settings(20, num_agents=(2, 4)):
        layout = best(seconds, num_devices)
        reached = simulate_chain(seconds, devices_of(layout), 40 * num_devices)
        assert reached == pytest.approx(rate_of(layout, seconds), rel=0.15), (seconds, num_devices, layout)


def test_an_agent_whose_turns_wait_in_queues_takes_the_time_that_others_leave() -> None:
    hosts = {"think": frozenset("x"), "answer": frozenset("xy")}
    sizes: dict[Hashable, float] = {"x": 1.0, "y": 7.0}
    rate, bound = most_per_second({"think": 1.0, "answer": 20.0}, hosts, sizes)
    assert rate == pytest.approx(8 / 21)
    assert bound == ("think", "answer")


def test_agents_that_keep_each_other_waiting_have_equal_shares() -> None:
    hosts = {"think": frozenset("x"), "answer": frozenset("xy")}
    sizes: dict[Hashable, float] = {"x": 3.0, "y": 3.0}
    rate, bound = most_per_second({"think": 9.0, "answer": 9.0}, hosts, sizes)
    assert rate == pytest.approx(1 / (9 / 3 + 9 / 6))
    assert bound == ("think", "answer")


@given(st.lists(times, min_size=1, max_size=5), st.integers(0, 60))
def test_devices_are_divided_as_the_work_is(work: list[float], more: int) -> None:
    seconds = {str(number): one for number, one in enumerate(work)}
    agents, num_devices = tuple(seconds), len(work) + more
    counts = divide(agents, seconds, num_devices)
    assert sum(counts.values()) == num_devices
    worst = max(seconds[agent] / counts[agent] for agent in agents)
    for target in {seconds[agent] / count for agent in agents for count in range(1, num_devices + 1)}:
        if target < worst * (1 - 1e-9):  # nobody could be below it with as many devices
            assert sum(-(-seconds[agent] // target) for agent in agents) > num_devices - 1e-9


def search_of(nodes: tuple[NodeResources, ...], hardware: str = "h100", **more: Any) -> LayoutSearch:
    figures = hardware_named(hardware)
    made = request(nodes, workload=Workload(max_new_tokens=2048), **more)
    return LayoutSearch(request=made, hardware=figures, speeds=figures.link_speeds())


def search(nodes: tuple[NodeResources, ...], hardware: str = "h100", **more: Any) -> list[PredictedPlan]:
    return search_of(nodes, hardware, **more).find()


def test_thinkers_share_a_gpu_where_two_copies_of_the_weights_fit() -> None:
    vllm: dict[str, Any] = {"written_at_once": {"judger": 16}, "apart": frozenset({"judger"})}
    small, large = (search(cluster(1, 8), model=model, **vllm)[0] for model in ("qwen3-4b", "qwen3-14b"))
    assert small.plan.request.replicas["judger"] >= 7
    assert small.prediction.use > 0.9
    assert large.plan.request.replicas == {"planner": 1, "critic": 1, "refiner": 1, "judger": 6}
    for found in (small, large):
        assert all(memory.total_bytes <= 80e9 for memory in found.plan.memory.values())


@pytest.mark.parametrize("shares", [True, False])
def test_flags_give_a_run_the_layout_that_was_found(shares: bool) -> None:
    searched = search_of(cluster(1, 8), written_at_once={"judger": 16}, apart=frozenset({"judger"}))
    chosen = [one for one in searched.find() if one.layout is not None and one.layout.shares_devices is shares]
    run = searched.run_of(chosen)
    assert run is not None
    one, plan = run
    assert one is chosen[0]
    fields = run_fields(plan)
    flags = run_flags(plan).split()
    assert parse_replicas(flags[flags.index("--replicas") + 1]) == fields["replicas"] or not shares
    devices = devices_by_agents(fields["replicas"], plan.request.agents)
    again = replace(one.plan.request, replicas=replicas_by_agent(fields["replicas"], plan.request.agents))
    made = make_plan(again) if devices is None else plan_layout(again, devices)
    assert (devices is not None) is shares
    assert made.slots == plan.slots
    assert contents_of(made) == contents_of(one.plan)


def test_no_flags_give_each_agent_nodes_of_its_own() -> None:
    searched = search_of(nodes_alike(4, num_gpus=0, num_cpus=8), "cpu", model="qwen3-0.6b")
    own = [one for one in searched.find() if all(len(agents) == 1 for agents in contents_of(one.plan))]
    assert own
    assert searched.run_of(own) is None


def test_a_chain_that_is_too_large_for_a_node_is_spread_as_a_run_would_spread_it() -> None:
    searched = search_of(
        cluster(2, 8), model="qwen2.5-72b", written_at_once={"judger": 16}, apart=frozenset({"judger"})
    )
    found = searched.find()
    run = searched.run_of(found)
    assert run is not None
    one, plan = run
    assert (plan.strategy, plan.request.tp) == ("spread", 4)
    assert plan.slots == try_as_asked(plan).slots
    assert one.plan is plan
    assert 0 < one.prediction.questions_per_second <= found[0].prediction.questions_per_second


@pytest.mark.parametrize("rows", [16, 128, 1024])
@pytest.mark.parametrize("model", ["qwen3-32b", "qwen2.5-72b"])
def test_what_fits_a_gpu_in_the_search_fits_it_in_the_plan_of_a_run(model: str, rows: int) -> None:
    """Texts that an engine has no room for are written later, whoever asks."""
    searched = search_of(
        cluster(2, 8), model=model, written_at_once={"judger": rows}, apart=frozenset({"judger"}), placement="pack"
    )
    run = searched.run_of(searched.find())
    assert run is not None
    assert GpuMemory(run[1].request).shortage([("judger",)], int(80e9)) is None


def test_an_engine_without_room_for_one_question_is_refused_with_the_reason() -> None:
    made = request(cluster(1, 4), model="qwen2.5-72b", apart=frozenset({"judger"}))
    short = GpuMemory(made).shortage([("judger",)], int(80e9))
    assert short is not None
    assert "judger: its weights (145 GB)" in short[1]


def try_as_asked(plan: Plan) -> Plan:
    """The plan of a run with the flags of this one."""
    fields = run_fields(plan)
    return make_plan(replace(plan.request, placement=fields["placement"], tp=fields["tp"]))


def test_an_engine_writes_fewer_questions_at_once_where_more_actors_share_its_gpu() -> None:
    made = request(
        cluster(1, 8),
        model="qwen3-4b",
        workload=Workload(max_new_tokens=2048),
        written_at_once={"judger": 16},
        apart=frozenset({"judger"}),
    )
    rows = [rows_on(made, count)["judger"] for count in (1, 2, 4, 8)]
    assert rows[0] == 16
    assert rows == sorted(rows, reverse=True)
    assert 0 < rows[2] < 16
    assert rows[3] == 0
    names = tuple(made.agents)
    assert fits(made, Layout({names: 8}))
    assert not fits(replace(made, nodes=cluster(1, 8, gigabytes=40)), Layout({names: 8}))
    figures = hardware_named("a100-80gb")
    finder = LayoutSearch(request=made, hardware=figures, speeds=figures.link_speeds())
    own, shared, both = (
        finder.costs_on(made, Layout(counts))["judger"].decode.seconds
        for counts in ({("judger",): 8}, {names: 8}, {("judger",): 7, names: 1})
    )
    assert own < both < shared
    assert both == pytest.approx((7 * own + shared) / 8)


def test_our_own_engine_writes_whole_batches_where_it_is_divided() -> None:
    made = request(cluster(1, 8), written_at_once={"judger": 64})
    assert written_at_once(made) == {"judger": 64}
    assert written_at_once(replace(made, tp=2)) == {}
    assert written_at_once(replace(made, tp=2, apart=frozenset({"judger"}))) == {"judger": 64}


@pytest.mark.parametrize(
    ("counts", "more", "told"),
    [
        ({("planner", "critic"): 9}, {}, "'planner+critic=9'; it needs 9 GPUs, and there are 8"),
        ({("planner", "critic"): 1}, {"placement": "spread"}, "placement spread excludes"),
        ({("planner", "critic"): 1}, {"tp": 2}, "the ranks of tp need their own GPUs"),
        ({("planner", "critic"): 1}, {"model": "qwen2.5-72b"}, "do not fit into its memory"),
    ],
)
def test_a_layout_that_cannot_be_had(counts: dict[tuple[str, ...], int], more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^replicas: .*{re.escape(told)}"):
        plan_layout(request(cluster(1, 8), **more), counts)


def test_hand_overs_take_their_mean_and_not_that_of_the_slowest_pair() -> None:
    plan = make_plan(request(cluster(2, 4), replicas={"judger": 5}))
    speeds = hardware_named("h100").link_speeds()
    transfers = plan.hand_overs(speeds)
    assert any(one.mean_seconds < one.seconds for one in transfers)
    assert all(0 < one.mean_seconds <= one.seconds for one in transfers)


def test_one_engine_for_all_agents_puts_them_on_every_gpu() -> None:
    found = search(cluster(2, 8), topology="hierarchical")
    assert found[0].plan.strategy == "colocate"
    assert len(found[0].plan.slots) == 16
    assert found[0].prediction.questions_per_second >= 0.99 * max(one.prediction.questions_per_second for one in found)


def test_the_search_never_falls_behind_the_plan_of_today() -> None:
    made = request(cluster(1, 8), workload=Workload(max_new_tokens=2048))
    figures = hardware_named("h100")
    finder = LayoutSearch(request=made, hardware=figures, speeds=figures.link_speeds())
    today = finder.predicted(make_plan(made)).prediction
    assert finder.find()[0].prediction.questions_per_second > 5 * today.questions_per_second


def test_a_model_that_needs_several_gpus_gets_the_fewest() -> None:
    found = search(cluster(2, 8), model="qwen2.5-72b")
    assert {one.plan.request.tp for one in found} == {4}
    assert len(found[0].plan.slots) == 4


@pytest.mark.parametrize("placement", ["pack", "colocate"])
def test_a_placement_that_is_asked_for_is_kept(placement: str) -> None:
    assert {one.plan.strategy for one in search(cluster(1, 4), placement=placement)} == {placement}


def test_nodes_are_filled_before_others_are_used_and_have_their_part_of_every_kind() -> None:
    vllm: dict[str, Any] = {"written_at_once": {"judger": 16}, "apart": frozenset({"judger"})}
    plan = search(cluster(4, 8), model="qwen3-14b", **vllm)[0].plan
    slots = [slot for places in plan.slots.values() for slot in places]
    assert {slot.node for slot in slots} == {0, 1, 2, 3}
    for agent, count in plan.request.replicas.items():
        nodes = [places[0].node for one, places in plan.slots.items() if agent in one.agents]
        assert max(map(nodes.count, range(4))) - min(map(nodes.count, range(4))) <= 1 + count // 8, agent


def test_nodes_without_gpus_are_devices_too() -> None:
    found = search(nodes_alike(3, num_gpus=0, num_cpus=8), "cpu", model="qwen3-0.6b")[0]
    assert found.prediction.num_devices == 3
    assert found.plan.share.num_gpus == 0
    assert len({slot for places in found.plan.slots.values() for slot in places}) == 3


def test_a_node_without_cores_is_no_device() -> None:
    """As the head of a cluster is that takes no work."""
    nodes = (*nodes_alike(1, num_gpus=0, num_cpus=0), *nodes_alike(2, num_gpus=0, num_cpus=8))
    found = search(nodes, "cpu", model="qwen3-0.6b")[0]
    assert found.prediction.num_devices == 2
    alone = search(nodes_alike(2, num_gpus=0, num_cpus=8), "cpu", model="qwen3-0.6b")[0]
    assert found.prediction.questions_per_second == pytest.approx(alone.prediction.questions_per_second)


def test_more_replicas_than_a_run_takes_are_no_flags() -> None:
    searched = search_of(cluster(129, 8), model="qwen3-0.6b", placement="colocate")
    found = searched.find()
    assert found[0].plan.request.num_pipelines == 1032
    assert searched.run_of(found) is None


def test_the_sums_of_ranks_go_over_the_links_of_the_plan() -> None:
    made = request(cluster(1, 8), model="qwen2.5-72b", tp=4)
    figures = hardware_named("h100")
    fast, slow = (
        LayoutSearch(request=made, hardware=figures, speeds=speeds).costs(made, {})["planner"].seconds
        for speeds in (figures.link_speeds(), replace(figures.link_speeds(), nvlink=None, pcie=25e9))
    )
    assert slow > 1.5 * fast


def test_a_search_has_a_largest_cluster() -> None:
    with pytest.raises(ConfigError, match="a search takes at most 8192 devices"):
        search(cluster(1025, 8), model="qwen3-0.6b")


def test_spread_is_refused_and_what_does_not_fit_is_said() -> None:
    with pytest.raises(ConfigError, match=r"placement: .*spread.*auto, pack or colocate"):
        search(cluster(1, 8), placement="spread")
    with pytest.raises(ConfigError, match=r"gpu_memory: .*the size of the GPUs"):
        search(cluster(1, 8, gigabytes=None))
    with pytest.raises(ConfigError, match="more than it has"):
        search(cluster(1, 1, gigabytes=16), model="qwen2.5-72b")


def test_the_busiest_port_of_a_node_bounds_the_prediction() -> None:
    """Half of the judgers are on the other node, so half of all memory leaves the thinkers' node; over a network that
    carries two batches of it in a second, that bounds the run."""
    made = request(cluster(2, 8), replicas={"judger": 13}, workload=Workload(batch_size=4))
    plan = make_plan(made)
    ports = plan.port_bytes()
    assert sum(size for (_, way), size in ports.items() if way == "sends") == pytest.approx(
        sum(
            one.num_bytes * one.links.get("network", 0) / sum(one.links.values())
            for one in plan.hand_overs(LinkSpeeds())
        )
    )
    assert (0, "sends") in ports
    assert (1, "sends") not in ports
    costs = {agent: TurnCost(agent=agent, prefill=_NONE, think=_NONE, decode=_NONE) for agent in made.agents}
    slow = LinkSpeeds(network=2 * ports[0, "sends"])
    found = predict(plan, costs, slow)
    assert found.bound_by == "network between nodes"
    assert found.questions_per_second == pytest.approx(4 * 2)
