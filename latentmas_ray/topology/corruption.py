"""The control that gives one agent a wrong version of the question: which agent that is."""

from collections.abc import Iterable
from dataclasses import replace

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks import answer_form, wrong_version
from latentmas_ray.tasks.question import Corruption, Question
from latentmas_ray.topology.agent import Topology
from latentmas_ray.topology.prompts import render_messages


def corrupt_one(topology: Topology, questions: Iterable[Question]) -> list[Question]:
    """Return the questions for the control in which one agent gets the wrong version of each: the first agent, in the
    topology's order and without those that answer, whose prompt it changes. All others get the right one.

    So it is the expert whose notes have the wrong fact, and the first of several agents that get the same. Raises
    TaskError for a question without a wrong version, and for one that changes no such prompt.
    """
    return [replace(question, corruption=_corruption(topology, question)) for question in questions]


def _corruption(topology: Topology, question: Question) -> Corruption:
    wrong, form = wrong_version(question), answer_form(question.kind)
    for agent in topology.agents:
        if topology.answers(agent.name):
            continue
        right, changed = (render_messages(agent, one, context="", answer_form=form) for one in (question, wrong))
        if right != changed:
            return Corruption(agent=agent.name, question=wrong)
    answering = ", ".join(agent.name for agent in topology.answering_agents)
    expected = (
        f"the wrong version of question {question.id} changes no prompt but perhaps that of {answering}, which "
        f"answers; another agent of topology {topology.name} must show what is wrong"
    )
    raise TaskError("memory", "corrupted", expected)
