"""Topologies for hints: an abstraction agent proposes a hint, and a solver, which answers, reads it as text or memory.

A run with m hints asks m copies of each question (`tasks.hints.copies`). Hints that the task wrote reach the solver as
text without the abstraction agent, or as the memory of that agent, whose prompt or suffix shows them.
"""

from collections.abc import Sequence
from dataclasses import replace

from latentmas_ray.config import HintSource, RunConfig
from latentmas_ray.errors import ConfigError, TaskError
from latentmas_ray.tasks import answer_form, mismatch_memory, wrong_version
from latentmas_ray.tasks.hints.copies import copies_for_hints
from latentmas_ray.tasks.question import Corruption, Question
from latentmas_ray.topology.agent import Agent, Topology
from latentmas_ray.topology.corruption import corrupt_one
from latentmas_ray.topology.prompts import render_prompt

_SHAPE = "it needs a topology of two agents, one that proposes a hint and one that reads it, such as abstraction"


def abstraction_agent(topology: Topology, abstractions: int) -> Agent:
    """Return the agent that proposes hints. Raises ConfigError for a topology of another shape."""
    others = [agent for agent in topology.agents if not topology.answers(agent.name)]
    if len(others) != 1 or len(topology.agents) != 2:
        agents = ", ".join(agent.name for agent in topology.agents)
        raise ConfigError("abstractions", abstractions, f"{_SHAPE}; {topology.name} has the agents {agents}")
    return others[0]


def apply_hints(topology: Topology, config: RunConfig) -> Topology:
    """Return the topology that runs with the configured hints: the solver alone if it reads texts that the task wrote.
    Raises ConfigError for a topology of another shape."""
    if config.abstractions is None:
        return topology
    abstraction_agent(topology, config.abstractions)
    if not _reads_written(config.hints, config.method):
        return topology
    return topology.replace(agents=[topology.answering_agent.replace(reads=())])


def ask_with_hints(
    questions: Sequence[Question], configured: Topology, topology: Topology, config: RunConfig
) -> list[Question]:
    """Return the copies of the questions for their hints, as the agents see them under the configured control.

    `configured` is the topology before hints and control are applied to it, `topology` the one that runs. Raises
    ConfigError for hints that are missing, that no prompt shows or that would be all the same, and TaskError as the
    controls do.
    """
    assert config.abstractions is not None
    count, source, memory = config.abstractions, config.hints, config.memory
    proposer = abstraction_agent(configured, count)
    written_as = proposer.name if _reads_written(source, config.method) else ""
    asked = mismatch_memory(questions) if memory == "deranged" else [*questions]
    copies = copies_for_hints(asked, count, source, written_as=written_as, has_hints=memory != "none")
    if memory == "none":
        return copies
    if not written_as and copies:
        _check_prompts(proposer, copies, config)
    if memory == "corrupted":
        copies = _with_wrong_hints(copies, proposer.name) if written_as else corrupt_one(topology, copies)
        copies = [_with_read_text(copy) for copy in copies]
    return copies


def _reads_written(source: HintSource, method: str) -> bool:
    """Whether the solver reads, as text, what the task wrote."""
    return source == "oracle" and method == "text"


def _with_wrong_hints(copies: Sequence[Question], agent: str) -> list[Question]:
    """Return the copies for solvers that read the hints of the wrong version, and nothing else that is wrong. Raises
    TaskError for a hint that is the same there."""
    found = []
    for copy in copies:
        wrong = wrong_version(copy)
        if wrong.record["hint"] == copy.record["hint"]:
            expected = f"the hint of {copy.id} is the same in the wrong version; its record needs other wrong_hints"
            raise TaskError("memory", "corrupted", expected)
        found.append(replace(copy, corruption=Corruption(agent=agent, question=wrong)))
    return found


def _with_read_text(copy: Question) -> Question:
    """Return a copy with a wrong version with the text of the hint that is read: that of the wrong version."""
    assert copy.hint is not None
    if copy.hint.text is None or copy.corruption is None:
        return copy
    return replace(copy, hint=replace(copy.hint, text=str(copy.corruption.question.record["hint"])))


def _check_prompts(proposer: Agent, copies: Sequence[Question], config: RunConfig) -> None:
    """Raise ConfigError if the abstraction agent's prompt does not show the task's hint, or is the same for all hints
    although nothing else makes them differ."""
    first = copies[0]
    form = answer_form(first.kind)
    shown = render_prompt(proposer, first, answer_form=form)
    if config.hints == "oracle":
        without = replace(first, record={**first.record, "hint": "", "hints": []})
        if render_prompt(proposer, without, answer_form=form) == shown:
            expected = (
                f"the prompt of {proposer.name} does not show the hint; let it, or its suffix, use {{{{ hint }}}}"
            )
            raise ConfigError("hints", "oracle", expected)
        return
    is_drawn = (proposer.thinks == "text" or config.method == "text") and config.temperature > 0
    is_drawn = is_drawn or config.thoughts.startswith("noise")
    if len(copies) > 1 and first.hint is not None and first.hint.of > 1 and not is_drawn:
        second = render_prompt(proposer, copies[1], answer_form=form)
        if second == shown:
            expected = (
                f"all hints would be the same: {proposer.name} has the same prompt for each, and nothing is drawn; let "
                "its prompt use {{ hint_number }}, or use method text with a temperature"
            )
            raise ConfigError("abstractions", first.hint.of, expected)
