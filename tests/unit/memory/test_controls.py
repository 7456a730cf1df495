"""Controls of latent collaboration: who sees which question, and what is handed over."""

import pytest

from latentmas_ray.config import RunConfig, make_config
from latentmas_ray.errors import ConfigError, TaskError
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.turns import DriverSettings, build_turn
from latentmas_ray.system import LatentMAS
from latentmas_ray.tasks import load_questions, mismatch_memory
from latentmas_ray.topology import apply_control, builtin_for, load_topology


def told(agent_name: str, number: int, deranged: bool) -> str:
    """What an agent of the notes is told about one of three questions."""
    questions = load_questions("notes", 3)
    topology = load_topology("notes-hierarchical")
    batch = Batch(number=0, questions=tuple(mismatch_memory(questions) if deranged else questions))
    work = build_turn(topology, topology.by_name[agent_name], batch, DriverSettings(), {})
    return work.prompts[number].messages[-1]["content"]


def test_deranged_experts_see_the_next_question_and_the_answerer_its_own() -> None:
    for number in range(3):
        assert told("expert_2", number, True) == told("expert_2", (number + 1) % 3, False)
        assert told("answerer", number, True) == told("answerer", number, False)


def test_one_question_cannot_be_deranged() -> None:
    with pytest.raises(TaskError, match="memory: got 'deranged'; it needs at least two questions"):
        mismatch_memory(load_questions("notes", 1))


@pytest.mark.parametrize(
    ("memory", "part"),
    [("prompt-only", "prompt"), ("latent-only", "latents"), ("latent-only+sink", "latents+sink"), ("matched", "all")],
)
def test_a_part_of_the_memory_is_handed_over(memory: str, part: str) -> None:
    topology = apply_control(load_topology("notes-sequential"), memory)  # type: ignore[arg-type]
    assert [agent.hands_over for agent in topology.agents] == [part, part, part, "all"]


def test_without_memory_the_answering_agent_is_alone() -> None:
    (agent,) = apply_control(load_topology("notes-sequential"), "none").agents
    assert (agent.name, agent.reads) == ("answerer", ())


def test_a_control_needs_memory_to_control() -> None:
    with pytest.raises(ConfigError, match="memory: got 'none'; method text hands over no memory"):
        make_config({"memory": "none", "method": "text"})


@pytest.mark.parametrize(
    ("task", "name", "expected"),
    [("notes", "sequential", "notes-sequential"), ("chain", "single", "chain-single"), ("sample", "single", "single")],
)
def test_a_task_has_topologies_of_its_own(task: str, name: str, expected: str) -> None:
    assert builtin_for(task, name) == expected


def test_the_system_runs_the_tasks_topology() -> None:
    for method, name in (("latent", "notes-hierarchical"), ("single", "notes-single")):
        config = RunConfig(task="notes", topology="hierarchical", method=method, runtime="local")
        assert LatentMAS(config).topology.name == name
