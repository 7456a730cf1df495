"""The built-in topologies, and the topology that each method runs."""

import pytest

from latentmas_ray.errors import TopologyError
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import (
    BUILTIN,
    RenderedPrompts,
    apply_method,
    dump_topology,
    format_context,
    load_topology,
    parse_topology,
    render_messages,
)

QUESTION = Question(id="1", question="What is 6 x 7?", kind="number", gold="42", record={"gold": "42"})


def test_names_of_the_built_ins() -> None:
    forms = ("abstraction", "hierarchical", "sequential", "single")
    assert set(BUILTIN) == {*forms, *(f"{task}-{form}" for task in ("notes", "chain", "facts") for form in forms)}
    assert [load_topology(name).name for name in BUILTIN] == list(BUILTIN)


def test_shapes_of_the_built_ins() -> None:
    sequential, hierarchical = load_topology("sequential"), load_topology("hierarchical")
    assert [(agent.name, agent.thinks, agent.reads) for agent in sequential.agents] == [
        ("planner", "latent", ()),
        ("critic", "latent", ("planner",)),
        ("refiner", "latent", ("critic",)),
        ("judger", "text", ("refiner",)),
    ]
    experts = ("math_expert", "science_expert", "code_expert")
    assert [(agent.name, agent.thinks, agent.reads) for agent in hierarchical.agents] == [
        *((name, "latent", ()) for name in experts),
        ("summariser", "text", experts),
    ]
    assert [agent.thinks for agent in load_topology("single").agents] == ["text"]


@pytest.mark.parametrize("method", ["single", "text", "latent"])
@pytest.mark.parametrize("name", ["sequential", "hierarchical"])
def test_prompts_of_the_built_ins(name: str, method: str) -> None:
    topology = apply_method(load_topology(name), method)  # type: ignore[arg-type]
    RenderedPrompts.of(topology, [QUESTION])
    for agent in topology.agents:
        context = format_context([(read.name, f"Work of {read.name}") for read in topology.text_ancestors(agent.name)])
        messages = render_messages(agent, QUESTION, context=context, answer_form="End with the number.")
        assert [message["role"] for message in messages] == ["system", "user"]
        content = messages[1]["content"]
        assert content.count("What is 6 x 7?") == 1
        assert content.count("Work of ") == len(topology.text_ancestors(agent.name))
        assert ("End with the number." in content) == (agent == topology.answering_agent)
        assert "\n\n\n" not in content
        assert content == content.strip()


def test_method_text_changes_only_how_agents_think() -> None:
    text = """\
name: x
agents:
- {name: a, prompt: A, system: S, suffix: F, template: {t: 1}, latent_steps: 3, hands_over: latents, close_turn: true}
- {name: b, prompt: B, reads: a, thinks: text}
"""
    topology = apply_method(parse_topology(text, "t.yaml"), "text")
    a = topology.by_name["a"]
    assert (a.thinks, a.latent_steps, a.hands_over, a.close_turn) == ("text", None, "all", False)
    assert (a.prompt, a.system, a.suffix, a.template) == ("A", "S", "F", {"t": 1})
    assert topology.source == "t.yaml"
    assert parse_topology(dump_topology(topology), "t.yaml") == topology


def test_method_single_has_one_agent() -> None:
    own = parse_topology("name: own\nagents: [{name: a, prompt: p, thinks: text}]\n", "t.yaml")
    assert apply_method(own, "single") is own
    assert apply_method(load_topology("hierarchical"), "single") == load_topology("single")


def test_method_latent_needs_a_latent_agent() -> None:
    sequential = load_topology("sequential")
    assert apply_method(sequential, "latent") is sequential
    with pytest.raises(TopologyError, match="use method single or text"):
        apply_method(load_topology("single"), "latent")
    with pytest.raises(TopologyError, match="use method single or text"):
        apply_method(apply_method(sequential, "text"), "latent")
