"""Agents and topologies made in Python: validated when they are made, with the same messages as from YAML."""

import copy
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray import Agent, InputError, LatentMAS, Topology
from latentmas_ray.errors import ConfigError, TopologyError
from latentmas_ray.topology import apply_control, apply_method, load_topology, parse_topology
from latentmas_ray.topology.graph import MAX_AGENTS
from tests.unit.topology.test_graph import topologies
from tests.unit.topology.test_yaml_errors import BAD_FILES, GOOD

# What only a file can have: other data, or none at all, is left of it in Python.
ONLY_IN_FILES = {
    "empty file",
    "only a comment",
    "a list",
    "two documents",
    "open quote",
    "bad indentation",
    "tab",
    "control character",
    "half a surrogate pair",
    "alias",
    "deep nesting",
    "python tag",
    "duplicate top key",
    "duplicate key",
    "key a list",
    "merge key",
    "prompt a mapping",
    "close_turn forced",
    "latent_steps octal",
    "latent_steps base 60",
    "latent_steps 5000 digits",
    "template key twice",
    "template with an octal number",
    "too large",
}
# YAML shows what stands in the file, Python what it makes of it.
SPELLED_OTHERWISE = {"agent's name a boolean", "agent's name a date", "template with a date"}


def refusal(make: Callable[[], object]) -> TopologyError:
    with pytest.raises(TopologyError) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, InputError)
    assert "\n" not in str(caught.value)
    back = pickle.loads(pickle.dumps(caught.value))
    assert (str(back), back.path) == (str(caught.value), caught.value.path)
    return caught.value


def of_agents(data: dict[Any, Any]) -> Topology:
    """Made as users make it: the agents first."""
    agents = data.get("agents")
    entries = agents if isinstance(agents, list) and all(isinstance(entry, dict) for entry in agents) else []
    made = [Agent(**entry) for entry in entries]
    return Topology(**{**data, "agents": made}) if made else Topology(**data)


@pytest.mark.parametrize("case", [case for case in BAD_FILES if case not in ONLY_IN_FILES])
def test_python_gives_the_same_errors_as_yaml(case: str) -> None:
    text = BAD_FILES[case][0]
    data = yaml.safe_load(text)
    in_yaml = refusal(lambda: parse_topology(text, "t.yaml"))
    place = re.sub(r"^t\.yaml:\d+: ", "", in_yaml.field)
    expected = re.sub(r"; YAML reads this as .*, so quote it$| \(line \d+\)$", "", in_yaml.expected)
    in_python = refusal(lambda: Topology(**data))
    assert (in_python.field, in_python.expected, in_python.path) == (place, expected, in_yaml.path)
    assert in_python.value == in_yaml.value or case in SPELLED_OTHERWISE
    if not case.startswith("key not text"):  # no keyword of Python's
        by_agents = refusal(lambda: of_agents(data))
        assert by_agents.field == re.sub(r"^agents\[\d+\]\.", "agent.", place)
        assert (by_agents.value, by_agents.expected) == (in_python.value, in_python.expected)


def agent(name: str = "a", *reads: str, **keys: Any) -> Agent:
    return Agent(**({"name": name, "prompt": "p", "reads": reads} | keys))


def circle() -> Topology:
    return Topology(name="x", agents=[agent("a", "b"), agent("b", "a"), agent("c", "b", thinks="text")])


def nested(levels: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(levels - 1):
        made = {"a": made}
    return made


def endless() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (circle, "agents.a.reads: got 'a reads b reads a'; agents must not read each other in a circle"),
        (
            lambda: Topology(name="x", agents=[agent()]),
            "agents.a.thinks: got 'latent'; no agent reads this one, so it answers and must have `thinks: text`",
        ),
        (lambda: Topology(name="x", agents=[]), "agents: got '0 agents'; it must list 1 to 1000 agents"),
        (lambda: Topology(name="x", agents=agent(thinks="text")), "agents: got "),
        (lambda: Topology(name="x", agents=[5]), "agents[0]: got '5'; it must be an Agent or a mapping"),
        (lambda: Topology(name="x", agents=[{1: 2}]), "agents[0]: got '1'; a key must be text"),
        (
            lambda: Topology(name="x", agents=[agent(thinks="text")], source="f"),
            "source: got 'source'; unknown key; the valid keys are name, decides, agents",
        ),
        (
            lambda: Topology(name="x", agents=[agent("a"), agent("a", thinks="text")]),
            "agents.a.name: got 'a'; names must differ, and another agent has this one",
        ),
        (lambda: Agent(prompt="p"), "agent.name: got 'nothing'; it is missing"),
        (lambda: Agent(name="a", promt="p"), "agents.a.promt: got 'promt'; unknown key; did you mean prompt?"),
        (
            lambda: Agent(name="a", prompt="p", pipeline_parallel=2),
            "agents.a.pipeline_parallel: got 'pipeline_parallel'; a model is not divided into pipeline stages",
        ),
        (lambda: agent(name="the judger"), "agent.name: got 'the judger'; it must begin with a letter"),
        (lambda: agent(prompt=None), "agents.a.prompt: got 'nothing'; it must be text"),
        (lambda: agent(reads={"b"}), "agents.a.reads: got \"{'b'}\"; it must be text (one agent's name) or a list"),
        (lambda: agent(reads=["b", 5]), "agents.a.reads[1]: got '5'; it must be text"),
        (lambda: agent(latent_steps=True), "agents.a.latent_steps: got 'true'; it must be a whole number from 0 to"),
        (lambda: agent(latent_steps=10**5000), "agents.a.latent_steps: got '<int>'; it must be a whole number"),
        (lambda: agent(thinks="text", close_turn=False), "agents.a.close_turn: got 'false'; only a latent agent"),
        (lambda: agent(template={1: "a"}), "agents.a.template: got '1'; a key must be text"),
        (lambda: agent(template={"t": [{"u": object}]}), "agents.a.template.t[0].u: got \"<class 'object'>\"; it must"),
        (lambda: agent(template={"t": Silent()}), "agents.a.template.t: got '<Silent>'; it must be text, a number"),
        (lambda: agent(template={"t": float("nan")}), "agents.a.template.t: got 'nan'; it must be a finite number"),
        (lambda: agent(template={"t": 10**18}), "agents.a.template.t: got '1000000000000000000'; it must be a whole"),
        (lambda: agent(template={"t": "\ud800"}), "agents.a.template.t: got \"'\\\\ud800'\"; it has half of a"),
        (lambda: agent(template={"t": endless()}), "it is nested more than 17 levels deep"),
        (lambda: agent(template=nested(18)), "it is nested more than 17 levels deep"),
        (lambda: agent().replace(thinks="loud"), "agents.a.thinks: got 'loud'; it must be one of latent, text"),
        (lambda: agent().model_copy(update={"thinks": "loud"}), "agents.a.thinks: got 'loud'; it must be one of"),
        (lambda: agent(prompt="{{ {[1]: 2} | length }}"), "agents.a.prompt: got '{{ {[1]: 2} | length }}'; Jinja2 can"),
    ],
)
def test_errors_that_only_python_can_cause(make: Callable[[], object], line: str) -> None:
    error = refusal(make)
    assert str(error).startswith(line) or str(error).endswith(line)


def test_values_are_copied_as_plain_data() -> None:
    levels, arguments = [1, 2], {"levels": (3, [4.5, None, True]), "deep": nested(16)}
    made = agent(reads=["b"], template=arguments | {"own": levels})
    levels.append(9)
    assert made.template == {"levels": [3, [4.5, None, True]], "deep": nested(16), "own": [1, 2]}
    assert (made.reads, agent(reads="b").reads) == (("b",), ("b",))
    assert hash(made) == hash(copy.deepcopy(made))
    with pytest.raises(ValueError, match="frozen"):
        made.name = "b"  # type: ignore[misc]


def test_replace_validates_and_keeps_the_source() -> None:
    topology = parse_topology(GOOD, "t.yaml")
    planner, judger = topology.agents
    other = topology.replace(agents=[judger, planner.replace(latent_steps=3)])
    assert [one.name for one in other.agents] == ["planner", "judger"]
    assert (other.agents[0].latent_steps, other.source) == (3, "t.yaml")
    refusal(lambda: topology.replace(agents=[judger]))
    assert Topology(name="pair", agents=topology.agents) == topology
    assert Topology(name="pair", agents=other.agents) != topology


def test_load_parse_and_dump(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(GOOD)
    topology = Topology.load(str(path))
    assert topology == Topology.parse(GOOD) == Topology.parse(topology.to_yaml())
    assert Topology.load("sequential") == load_topology("sequential")
    assert refusal(lambda: Topology.parse("name: x\n")).field == "text:1: agents"


@given(topologies())
def test_any_dag_can_be_copied_pickled_and_dumped(made: Topology) -> None:
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made
    assert Topology(**made.model_dump(exclude_unset=True)) == made
    for changed in (apply_method(made, "text"), apply_control(made, "none"), apply_control(made, "prompt-only")):
        assert Topology.parse(changed.to_yaml()) == changed


def test_a_control_that_needs_latents_of_an_agent_without_any() -> None:
    mute = agent("b", latent_steps=0)
    topology = Topology(name="x", agents=[agent("a"), mute, agent("c", "a", "b", thinks="text")])
    line = "memory: got 'latent-only'; agent b has latent_steps: 0, so it has no latents to hand over"
    with pytest.raises(ConfigError, match=f"^{line}$"):
        apply_control(topology, "latent-only")
    assert apply_control(topology, "prompt-only").by_name["b"].hands_over == "prompt"


def test_a_control_without_prompts_keeps_no_share_of_them() -> None:
    topology = Topology(name="x", agents=[agent("a", keep=0.5), agent("c", "a", thinks="text")])
    assert apply_control(topology, "latent-only").by_name["a"].keep is None
    assert apply_control(topology, "prompt-only").by_name["a"].keep == 0.5


Edit = Callable[[list[dict[str, Any]], Any], None]


def _reads(agents: Sequence[dict[str, Any]], index: int) -> list[str]:
    return list(agents[index]["reads"])


def _cycle(agents: list[dict[str, Any]], random: Any) -> None:
    index = random.randrange(len(agents))
    agents[index]["reads"] = [*_reads(agents, index), agents[-1]["name"]]


def _unknown_reader(agents: list[dict[str, Any]], random: Any) -> None:
    index = random.randrange(len(agents))
    agents[index]["reads"] = [*_reads(agents, index), "unknown-name"]


def _same_name(agents: list[dict[str, Any]], random: Any) -> None:
    agents.insert(random.randrange(len(agents) + 1), dict(random.choice(agents)))


def _another_that_answers(agents: list[dict[str, Any]], random: Any) -> None:
    agents.insert(random.randrange(len(agents) + 1), {"name": "another-end", "prompt": "p", "thinks": "text"})


def _latent_end(agents: list[dict[str, Any]], random: Any) -> None:
    agents[-1]["thinks"] = "latent"


def _too_many(agents: list[dict[str, Any]], random: Any) -> None:
    agents += [{"name": f"more-{index}", "prompt": "p"} for index in range(MAX_AGENTS)]


def _any_value(agents: list[dict[str, Any]], random: Any) -> None:
    key = random.choice(["name", "thinks", "system", "prompt", "reads", "close_turn", "template", "suffix"])
    values = [5, -1.5, object(), b"p", {1}, [object()], "\ud800", "{{", float("inf")]
    random.choice(agents)[key] = random.choice(values)


def _unknown_key(agents: list[dict[str, Any]], random: Any) -> None:
    random.choice(agents)[random.choice(["promt", "_source", "model_config", "self", ""])] = "x"


def _missing_key(agents: list[dict[str, Any]], random: Any) -> None:
    del random.choice(agents)[random.choice(["name", "prompt"])]


EDITS: list[Edit] = [
    _cycle,
    _unknown_reader,
    _same_name,
    _another_that_answers,
    _latent_end,
    _too_many,
    _any_value,
    _unknown_key,
    _missing_key,
]


@given(topologies(), st.sampled_from(EDITS), st.randoms(use_true_random=False))
def test_a_topology_is_refused_exactly_if_a_rule_is_broken(topology: Topology, edit: Edit, random: Any) -> None:
    agents = [{key: getattr(one, key) for key in one.model_fields_set} for one in topology.agents]
    edit(agents, random)
    refusal(lambda: Topology(name="x", agents=agents))
    refusal(lambda: of_agents({"name": "x", "agents": agents}))


def test_a_run_with_a_topology_made_in_python() -> None:
    topology = Topology(
        name="mine",
        agents=[
            Agent(name="judger", thinks="text", reads="planner", prompt="{{ question }}"),
            Agent(name="planner", prompt="Plan. {{ question }}", latent_steps=2),
        ],
    )
    with LatentMAS(model="tiny", topology=topology, runtime="local", max_new_tokens=2) as mas:
        (answer,) = mas.run(["What is 6 times 7?"])
    assert list(answer.agents) == ["planner", "judger"]
    with pytest.raises(TopologyError, match=r"^agents: got 'alone'; it has no latent agent"):
        LatentMAS(model="tiny", topology=Topology(name="alone", agents=[agent(thinks="text")]), runtime="local")
