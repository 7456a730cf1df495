"""Which agent gets something wrong, and that no other prompt shows it."""

import re

import pytest

from latentmas_ray.errors import TaskError, TopologyError
from latentmas_ray.tasks import load_questions, question_from
from latentmas_ray.topology import Agent, RenderedPrompts, Topology, apply_method, corrupt_one, load_topology, seen_by


@pytest.mark.parametrize("method", ["latent", "text"])
@pytest.mark.parametrize("name", ["notes-hierarchical", "notes-sequential", "chain-sequential"])
def test_exactly_one_agent_is_told_the_wrong_version(name: str, method: str) -> None:
    topology = apply_method(load_topology(name), method)  # type: ignore[arg-type]
    questions = load_questions(name.partition("-")[0], 40)
    corrupted = corrupt_one(topology, questions)
    prompts, changed = (RenderedPrompts.of(topology, asked) for asked in (questions, corrupted))
    agents = set()
    for before, after in zip(questions, corrupted, strict=True):
        told = [
            agent.name
            for agent in topology.agents
            if prompts.get(agent, before, "") != changed.get(agent, seen_by(agent, topology, after), "")
        ]
        assert after.corruption is not None
        assert told == [after.corruption.agent]
        agents.update(told)
    # Notes are dealt to experts; of agents with the same problem it is the first.
    assert agents == ({"planner"} if name.startswith("chain") else {"expert_1", "expert_2", "expert_3"})


def test_a_wrong_version_that_no_agent_is_told_is_refused() -> None:
    topology = load_topology("chain-single")
    with pytest.raises(TaskError, match="changes no prompt but perhaps that of solver, which answers"):
        corrupt_one(topology, load_questions("chain", 1))


def test_no_prompt_can_show_a_wrong_version_by_itself() -> None:
    asked = question_from({"question": "q?", "gold": "1", "wrong_gold": "2", "plan": "p", "wrong_plan": "w"}, index=0)
    for field in ("wrong_gold", "wrong_plan", "record.wrong_plan"):
        agent = Agent(name="a", prompt=f"{{{{ {field} }}}}", thinks="text")
        with pytest.raises(TopologyError, match=re.escape(field.rpartition(".")[2])):
            RenderedPrompts.of(Topology(name="t", agents=[agent]), [asked])
    plain = question_from({"question": "q?", "gold": "1", "wrong_plan": "w"}, index=0)  # a field of another meaning
    agent = Agent(name="a", prompt="{{ wrong_plan }}", thinks="text")
    assert RenderedPrompts.of(Topology(name="t", agents=[agent]), [plain])
