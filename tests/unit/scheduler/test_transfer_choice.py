"""The choice between KV and recompute inputs by measured costs."""

import pytest

from latentmas_ray.config import TransferMode
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.transfer_choice import TransferCosts, choose_transfers, translated_links
from latentmas_ray.scheduler.turns import TopologyIndex
from latentmas_ray.topology.team import Team
from tests.cases.fake_runtime import FakeRuntime
from tests.cases.scheduler import agent, make_driver, make_questions, run_all, topology

CHAIN = topology(agent("planner"), agent("critic", "planner"), agent("judger", "critic", thinks="text"))
BYTES_PER_TOKEN = 114_688  # Qwen3-0.6B


def costs(bytes_per_second: float, tokens_per_second: float, *, to_judger: float | None = None) -> TransferCosts:
    names = ("planner", "critic", "judger")
    links = {(one, other): bytes_per_second for one in names for other in names}
    if to_judger is not None:
        links |= {(name, "judger"): to_judger for name in names}
    return TransferCosts(bytes_per_second=links, prefill_tokens_per_second=dict.fromkeys(names, tokens_per_second))


@pytest.mark.parametrize(
    ("mode", "measured", "expected"),
    [
        ("kv", None, "kv kv"),
        ("recompute", None, "recompute recompute"),
        ("auto", None, "kv kv"),
        ("auto", costs(1e9, 300), "kv kv"),  # a CPU that needs 3 s for what the link sends in 0.1 s
        ("auto", costs(1e9 / 8, 20_000), "recompute recompute"),  # a GPU behind 1 Gbit/s
        ("auto", costs(1e9 / 8, 1_000), "kv kv"),
        ("auto", costs(2.6e9, 22_000), "kv kv"),  # close to the crossover
        ("auto", costs(2.6e9, 23_500), "recompute recompute"),
        ("auto", costs(10e9, 20_000, to_judger=1e8), "recompute recompute"),  # the slowest reader counts
    ],
)
def test_auto_chooses_the_faster_mode(mode: TransferMode, measured: TransferCosts | None, expected: str) -> None:
    choices = choose_transfers(mode, TopologyIndex.of(CHAIN), measured, bytes_per_token=BYTES_PER_TOKEN)
    assert " ".join(choice.mode for choice in choices.values()) == expected
    assert list(choices) == ["planner", "critic"]


def test_only_agents_that_run_have_a_choice() -> None:
    slow_link = costs(1e9 / 8, 20_000)
    thinking = choose_transfers("auto", TopologyIndex.of(CHAIN, "think"), slow_link, bytes_per_token=BYTES_PER_TOKEN)
    # Memory that only the answering agent reads is not sent.
    assert {name: choice.mode for name, choice in thinking.items()} == {"planner": "recompute", "critic": "kv"}
    for mode in ("auto", "kv", "recompute"):
        topology_index = TopologyIndex.of(CHAIN, "answer-from-memory")
        assert choose_transfers(mode, topology_index, slow_link, bytes_per_token=BYTES_PER_TOKEN) == {}


def test_the_choice_says_why() -> None:
    choices = choose_transfers("auto", TopologyIndex.of(CHAIN), costs(1e8, 1e4), bytes_per_token=BYTES_PER_TOKEN)
    assert str(choices["planner"]) == "planner hands over recompute (kv 1.1 s, recompute 100 ms for 1,000 tokens)"


def test_requests_name_the_agents_to_recompute() -> None:
    runtime = FakeRuntime()
    run_all(runtime, CHAIN, make_questions(1), transfer="recompute")
    works = {work.agent: work for work in runtime.works}
    assert [works[name].transfer_mode for name in ("planner", "critic")] == ["recompute", "recompute"]
    assert works["critic"].recomputed == {"planner"}
    assert works["judger"].recomputed == {"planner", "critic"}


def test_an_agent_that_only_other_models_read_sends_no_kv() -> None:
    index = TopologyIndex.of(CHAIN)
    by_reader = {"critic": {"planner": "one"}, "judger": {"planner": "one"}}
    chosen = choose_transfers("kv", index, None, bytes_per_token=1, translated=by_reader)
    assert {name: one.mode for name, one in chosen.items()} == {"planner": "recompute", "critic": "kv"}
    # One reader has its model, so the KV is sent, and the costs are those of that reader alone.
    by_reader = {"judger": {"planner": "one", "critic": "two"}}
    slow = costs(10e9, 20_000, to_judger=1e8)
    chosen = choose_transfers("auto", index, slow, bytes_per_token=BYTES_PER_TOKEN, translated=by_reader)
    assert {name: one.mode for name, one in chosen.items()} == {"planner": "kv", "critic": "recompute"}


def test_models_with_equal_specs_are_the_same() -> None:
    index, team = TopologyIndex.of(CHAIN), Team.of(CHAIN, model="one", models={"judger": "copy"}, revision=None)
    found = translated_links(team, index, lambda agent: agent)
    assert found == {"planner": {}, "critic": {}, "judger": {"planner": "one", "critic": "one"}}
    assert translated_links(team, index, lambda agent: "equal")["judger"] == {}
    assert translated_links(team, TopologyIndex.of(CHAIN, "answer-from-memory"), lambda agent: agent) == {"judger": {}}


def test_requests_name_the_agents_whose_memory_is_translated() -> None:
    runtime = FakeRuntime()
    driver, team = make_driver(runtime, CHAIN), Team.of(CHAIN, model="one", models={"judger": "two"}, revision=None)
    list(driver.scheduler.run(driver.request(plan_batches(make_questions(1), 1), team=team)))
    by_agent = {work.agent: work for work in runtime.works}
    assert by_agent["judger"].translated == {"planner": "one", "critic": "one"}
    assert by_agent["judger"].recomputed == {"planner", "critic"}
    assert (by_agent["critic"].translated, by_agent["critic"].recomputed) == ({}, frozenset())
    assert [by_agent[name].transfer_mode for name in ("planner", "critic")] == ["kv", "recompute"]
