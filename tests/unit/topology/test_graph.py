"""The YAML round trip, the order of agents, and the memories and texts that an agent reads."""

import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.topology import (
    Agent,
    AgentMemory,
    Topology,
    apply_method,
    dump_topology,
    load_topology,
    parse_topology,
)
from latentmas_ray.topology.graph import MAX_LATENT_CHAIN

DIAMOND = """\
name: diamond
agents:
- {name: top, prompt: p}
- {name: left, prompt: p, reads: top}
- {name: right, prompt: p, reads: [top]}
- {name: bottom, prompt: p, thinks: text, reads: [left, right]}
"""

texts = st.text(st.characters(exclude_characters="{}#%", exclude_categories=("Cs",)), max_size=30)
lines = st.text(st.sampled_from(" \n\t'\":-|>&*!x"), max_size=12)
prompts = (texts | lines).filter(lambda text: text.strip() != "")
finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}", fullmatch=True)


class WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Any valid DAG: latent and text agents that read earlier ones, and one answering agent that reads the leaves."""
    agent_names = draw(st.lists(names, min_size=1, max_size=8, unique=True))
    agents: list[Agent] = []
    for i, name in enumerate(agent_names):
        is_last = i == len(agent_names) - 1
        thinks = "text" if is_last else draw(st.sampled_from(("latent", "latent", "text")))
        readable = [agent.name for agent in agents if thinks == "text" or agent.thinks == "latent"]
        reads = draw(st.lists(st.sampled_from(readable), unique=True, max_size=3)) if readable else []
        if is_last:
            read = {name for agent in agents for name in agent.reads} | set(reads)
            reads += [agent.name for agent in agents if agent.name not in read]
        agent = Agent(
            name=name,
            thinks=thinks,
            reads=tuple(reads),
            prompt=draw(prompts),
            system=draw(st.none() | texts),
            template=draw(st.dictionaries(texts.map(lambda text: f"own {text}"), plain, max_size=2)),
            suffix=draw(texts | lines),
        )
        if thinks == "latent":
            handed_over = draw(st.sampled_from(("all", "prompt", "latents")))
            agent = agent.replace(
                latent_steps=draw(st.none() | st.integers(1, 100_000)),
                hands_over=handed_over,
                keep=None if handed_over == "latents" else draw(st.none() | st.sampled_from((0.25, 1.0))),
                close_turn=draw(st.booleans()),
            )
        else:
            agent = agent.replace(engine=draw(st.sampled_from((None, "auto", "transformers", "vllm"))))
        agents.append(agent)
    return Topology(name=draw(names), agents=tuple(agents))


@given(topologies())
def test_dump_and_parse_are_inverse(topology: Topology) -> None:
    text = dump_topology(topology)
    parsed = parse_topology(text, topology.source)
    # Any topological order is right, so only what each agent is must be the same.
    assert parsed.by_name == topology.by_name
    assert parsed.name == topology.name
    assert parse_topology(dump_topology(parsed), parsed.source) == parsed


@given(topologies(), st.randoms(use_true_random=False))
def test_any_order_of_the_file_is_sorted(topology: Topology, random: object) -> None:
    agents = list(topology.agents)
    random.shuffle(agents)  # type: ignore[attr-defined]
    entries = [
        {key: value for key, value in agent.model_dump(exclude_unset=True).items() if value is not None}
        for agent in agents
    ]
    parsed = parse_topology(yaml.dump({"name": topology.name, "agents": entries}, Dumper=WithoutAliases), "t.yaml")
    assert parsed == Topology(name=topology.name, agents=agents)
    place = {agent.name: i for i, agent in enumerate(parsed.agents)}
    assert all(place[name] < place[agent.name] for agent in parsed.agents for name in agent.reads)
    assert parsed.answering_agent == topology.answering_agent
    assert parsed.agents[-1] == topology.answering_agent


@given(topologies())
def test_memory_and_text_of_every_agent(topology: Topology) -> None:
    text_topology = apply_method(topology, "text")
    for agent in topology.agents:
        held = topology.memory_of(agent.name).agents()
        assert len(set(held)) == len(held)
        assert held[-1] == agent.name
        place = {name: i for i, name in enumerate(held)}
        reads = {name: topology.by_name[name].reads for name in held}
        assert all(place[r] < place[name] for name in held for r in reads[name] if r in place)
        assert set(held) == _reachable(topology, agent.name, "latent") | {agent.name}
        ancestors = [spec.name for spec in topology.text_ancestors(agent.name)]
        assert ancestors == [spec.name for spec in topology.agents if spec.name in ancestors]
        assert set(ancestors) == _reachable(topology, agent.name, "text")
        assert text_topology.memory_read_by(agent.name) == ()
    texts_read = text_topology.text_ancestors(text_topology.answering_agent.name)
    assert texts_read == text_topology.agents[:-1]


def _reachable(topology: Topology, name: str, thinks: str) -> set[str]:
    direct = {read for read in topology.by_name[name].reads if topology.by_name[read].thinks == thinks}
    return direct.union(*(_reachable(topology, read, thinks) for read in direct))


def test_diamond() -> None:
    topology = parse_topology(DIAMOND, "t.yaml")
    top = AgentMemory("top")
    left, right = AgentMemory("left", (top,)), AgentMemory("right", (top,))
    assert topology.memory_read_by("bottom") == (left, right)
    assert topology.memory_of("bottom").agents() == ("top", "left", "right", "bottom")
    assert [agent.name for agent in apply_method(topology, "text").text_ancestors("bottom")] == ["top", "left", "right"]


def test_sorting_keeps_the_order_of_the_file_where_it_can() -> None:
    text = "name: x\nagents:\n" + "".join(
        f"- {{name: {name}, prompt: p, reads: [{reads}], thinks: {thinks}}}\n"
        for name, reads, thinks in (
            ("answer", "c, b, d", "text"),
            ("d", "", "latent"),
            ("c", "a", "latent"),
            ("b", "", "latent"),
            ("a", "", "latent"),
        )
    )
    assert [agent.name for agent in parse_topology(text, "t.yaml").agents] == ["d", "b", "a", "c", "answer"]


def test_keys_of_an_agent() -> None:
    text = """\
name: all keys
agents:
  - name: a
    thinks: latent
    system: Be brief.
    prompt: "{{ question }}"
    latent_steps: 0
    hands_over: prompt
    close_turn: true
    template: {enable_thinking: false, levels: [1, 2.5, null, text], more: {a: b}}
    suffix: "<think>\\n"
  - {name: b, reads: a, prompt: p, thinks: text, engine: vllm}
"""
    a, b = parse_topology(text, "t.yaml").agents
    assert a == Agent(
        name="a",
        system="Be brief.",
        prompt="{{ question }}",
        latent_steps=0,
        hands_over="prompt",
        close_turn=True,
        template={"enable_thinking": False, "levels": [1, 2.5, None, "text"], "more": {"a": "b"}},
        suffix="<think>\n",
    )
    assert b == Agent(name="b", reads=("a",), prompt="p", thinks="text", engine="vllm")


def test_the_longest_chain_can_be_walked_and_pickled() -> None:
    lines = [f"- {{name: a{i}, prompt: p, reads: a{i - 1}}}" for i in range(1, MAX_LATENT_CHAIN)]
    answering = f"- {{name: z, prompt: p, reads: a{MAX_LATENT_CHAIN - 1}, thinks: text}}"
    text = "\n".join(["name: x", "agents:", "- {name: a0, prompt: p}", *lines, answering])
    topology = parse_topology(text, "t.yaml")
    memory = topology.memory_of("z")
    assert len(memory.agents()) == MAX_LATENT_CHAIN + 1
    assert pickle.loads(pickle.dumps(memory)) == memory


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_file_with_a_byte_order_mark(tmp_path: Path, line_end: str) -> None:
    path = tmp_path / "diamond.YML"
    path.write_bytes(b"\xef\xbb\xbf" + DIAMOND.replace("\n", line_end).encode())
    topology = load_topology(str(path))
    assert topology.source == str(path)
    assert topology.agents == parse_topology(DIAMOND, "t.yaml").agents
