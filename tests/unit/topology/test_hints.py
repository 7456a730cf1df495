"""Hints reach the solver as text or as memory, and every control changes what it should."""

from typing import Any

import pytest

from latentmas_ray.config import RunConfig, make_config
from latentmas_ray.errors import ConfigError, InputError, TaskError
from latentmas_ray.tasks import load_questions
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import (
    Agent,
    RenderedPrompts,
    Topology,
    apply_control,
    apply_hints,
    apply_method,
    ask_with_hints,
    builtin_for,
    load_topology,
    seen_by,
)

TASKS = ("chain", "notes", "facts", "sample")
OWN = Topology(
    name="mine",
    agents=[
        Agent(name="proposer", prompt="{{ question }} Hint?"),
        Agent(name="solver", prompt="{{ question }}", reads=["proposer"], thinks="text"),
    ],
)
TWO_SOLVERS = Topology(
    name="two",
    decides="majority",
    agents=[*OWN.agents, Agent(name="other", prompt="{{ question }}", reads=["proposer"], thinks="text")],
)


def config_of(task: str = "chain", **fields: Any) -> RunConfig:
    return make_config({"task": task, "topology": "abstraction", "abstractions": 2, **fields})


def prepared(config: RunConfig, configured: Topology | None = None, num: int = 2) -> tuple[Topology, list[Question]]:
    """The topology that runs, and the questions as it is asked them."""
    configured = configured or load_topology(builtin_for(config.task, config.topology))
    topology = apply_hints(apply_method(configured, config.method), config)
    topology = apply_control(topology, config.memory)
    return topology, ask_with_hints(load_questions(config.task, num), configured, topology, config)


def read(topology: Topology, question: Question) -> dict[str, str]:
    """The prompt of each agent, with its suffix."""
    prompts = RenderedPrompts.of(topology, [question])
    found = {agent.name: prompts.get(agent, seen_by(agent, topology, question), "") for agent in topology.agents}
    return {name: prompt.messages[-1]["content"] + prompt.suffix for name, prompt in found.items()}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["text", "latent"])
def test_an_agent_of_its_own_proposes_and_no_prompt_of_the_solver_differs(task: str, method: str) -> None:
    topology, (first, second, *_) = prepared(config_of(task, method=method))
    proposer, solver = topology.agents
    assert topology.answering_agent is solver
    assert read(topology, first)[proposer.name] != read(topology, second)[proposer.name]
    bare, copies = prepared(config_of(task, method=method, memory="none"))
    assert [agent.name for agent in bare.agents] == [solver.name]
    assert read(bare, copies[0]) == {solver.name: read(topology, first)[solver.name]}


@pytest.mark.parametrize("task", TASKS[:3])
def test_the_tasks_hints_as_text(task: str) -> None:
    topology, (first, second, *_) = prepared(config_of(task, method="text", hints="oracle"))
    (solver,) = topology.agents
    for copy, number in ((first, 0), (second, 1)):
        prompt = read(topology, copy)[solver.name]
        assert f"wrote:\n{copy.record['hints'][number]}\n\n" in prompt
        assert copy.question in prompt
    bare, (copy, *_) = prepared(config_of(task, method="text", hints="oracle", memory="none"))
    assert copy.record["hints"][0] not in read(bare, copy)[solver.name]


@pytest.mark.parametrize("task", TASKS[:3])
def test_the_tasks_hints_as_memory(task: str) -> None:
    topology, (first, *_) = prepared(config_of(task, method="latent", hints="oracle"))
    proposer, solver = topology.agents
    prompts = read(topology, first)
    assert prompts[proposer.name].endswith(first.record["hints"][0])  # as if the agent had written it
    assert first.record["hints"][0] not in prompts[solver.name]


@pytest.mark.parametrize("hints", ["own", "oracle"])
@pytest.mark.parametrize("method", ["text", "latent"])
def test_deranged_hints_are_those_of_another_question_with_the_same_number(hints: str, method: str) -> None:
    topology, copies = prepared(config_of(method=method, hints=hints, memory="deranged"))
    assert [copy.seen_by_others.id for copy in copies if copy.seen_by_others] == [
        *("chain-1.hint-1", "chain-1.hint-2", "chain-0.hint-1", "chain-0.hint-2")
    ]
    if hints == "oracle":
        shown = [copy.hint.text for copy in copies if copy.hint]
        assert shown == [*copies[2].record["hints"][:2], *copies[0].record["hints"][:2]]
        prompts = read(topology, copies[0])
        assert shown[0] in prompts["solver" if method == "text" else "planner"]


@pytest.mark.parametrize("method", ["text", "latent"])
@pytest.mark.parametrize("task", ["chain", "notes"])
def test_a_wrong_hint_is_that_of_the_wrong_version(task: str, method: str) -> None:
    config = config_of(task, method=method, hints="oracle", memory="corrupted", abstractions=1)
    topology, (copy, *_) = prepared(config)
    assert copy.hint is not None
    assert copy.corruption is not None
    assert copy.hint.text == copy.record["wrong_hints"][0]
    assert copy.corruption.question.gold == copy.record["wrong_gold"]
    prompts = read(topology, copy)
    assert copy.question in prompts[topology.answering_agent.name]  # the solver knows the question right
    assert copy.hint.text in prompts[topology.agents[0].name]


def test_own_hints_to_the_wrong_question() -> None:
    topology, (copy, *_) = prepared(config_of(method="text", memory="corrupted"))
    assert copy.corruption is not None
    assert copy.corruption.agent == "planner"
    prompts = read(topology, copy)
    assert copy.record["wrong_question"] in prompts["planner"]
    assert copy.question in prompts["solver"]


@pytest.mark.parametrize(
    ("topology", "config", "expected"),
    [
        (
            load_topology("sequential"),
            {},
            "abstractions: got '?2'?; it needs a topology of two agents.*; sequential has",
        ),
        (load_topology("single"), {"method": "text"}, "single has the agents solver"),
        (TWO_SOLVERS, {"method": "text"}, "two has the agents proposer, solver, other"),
        (OWN, {}, "abstractions: got '?2'?; all hints would be the same: proposer"),
        (OWN, {"method": "text", "temperature": 0.0}, "all hints would be the same"),
        (OWN, {"hints": "oracle"}, "hints: got 'oracle'; the prompt of proposer does not show the hint"),
        (None, {"hints": "oracle", "task": "sample"}, "hints: got 'oracle'; question sample/1 has no field hints"),
        (None, {"hints": "oracle", "abstractions": 5}, "question chain-0 has 4 hints: .* at most 4"),
        (
            None,
            {"hints": "oracle", "method": "text", "memory": "corrupted", "abstractions": 3},
            "is the same in the wrong",
        ),
    ],
)
def test_what_cannot_be_is_refused(topology: Topology | None, config: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        prepared(config_of(**{"task": "chain", **config}), topology)


@pytest.mark.parametrize(
    "config",
    [
        {"abstractions": 1},
        {"method": "text", "temperature": 0.5},
        {"thoughts": "noise"},
        {"hints": "oracle", "method": "text"},  # the solver reads it, and no other prompt is rendered
        {"memory": "none"},
    ],
)
def test_what_makes_hints_differ_without_their_number(config: dict[str, Any]) -> None:
    assert prepared(config_of(**config), OWN)[1]


def test_one_question_has_no_other_ones_hint() -> None:
    with pytest.raises(TaskError, match="memory: got 'deranged'; it needs at least two questions"):
        prepared(config_of(memory="deranged"), num=1)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"abstractions": 0}, "abstractions: got '?0'?; it must be a whole number from 1 to 256"),
        ({"abstractions": True}, "not true or false"),
        ({"abstractions": 1000}, "a whole number from 1 to 256"),
        ({"abstractions": "two"}, "abstractions: got 'two'"),
        ({"hints": "mine"}, "hints: got 'mine'"),
        ({"method": "single"}, "abstractions: got '?2'?; one agent alone gets no hint"),
        ({"method": "text", "memory": "prompt-only"}, "memory: got 'prompt-only'; method text hands over no memory"),
    ],
)
def test_settings_that_mean_nothing(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        config_of(**fields)


def test_without_hints_text_has_no_memory_to_change() -> None:
    with pytest.raises(ConfigError, match="method text hands over no memory"):
        make_config({"method": "text", "memory": "none"})
