"""Chains of agents of which the first gets something wrong: the others know it right, and the last one answers."""

from collections.abc import Mapping
from typing import NamedTuple

from latentmas_ray.topology import Agent, Topology

_CONTEXT = "{% if context %}\n{{ context }}\n\n{% endif %}\n"


class ChainForm(NamedTuple):
    """The prompts of a task's chain."""

    first: str  # of the agent that gets something wrong
    between: tuple[str, ...]  # of those after it, in turn: they see what is right
    last: str  # of the agent that answers


_ALL_NOTES = 'Notes: {{ notes | join(" ") }}\nRepeat the notes.\n'
_FACTS = '{{ notes | join(" ") }}\n'
# notes and facts: the answering agent sees only the question. chain: it sees the whole problem, as all agents do.
FORMS: Mapping[str, ChainForm] = {
    "notes": ChainForm(first=_ALL_NOTES, between=(_ALL_NOTES,), last="Question: {{ question }}\nAnswer.\n"),
    "chain": ChainForm(
        first="Question: {{ question }}\nPlan the steps.\n",
        between=("Question: {{ question }}\nCheck the plan.\n", "Question: {{ question }}\nWork out the steps.\n"),
        last="Question: {{ question }}\nAnswer.\n",
    ),
    "facts": ChainForm(first=_FACTS, between=(_FACTS,), last="{{ question }}\n"),
}


def chain_topology(task: str, between: int) -> Topology:
    """Return the chain of a task with so many agents between the first and the last one."""
    form = FORMS[task]
    names = ["first", *(f"between_{number + 1}" for number in range(between)), "last"]
    prompts = [form.first, *(form.between[number % len(form.between)] for number in range(between)), form.last]
    return Topology(
        name=f"{task}-chain-of-{len(names)}",
        agents=[
            Agent(
                name=name,
                prompt=prompt if index == 0 else _CONTEXT + prompt,
                reads=names[index - 1 : index],
                thinks="text" if index == len(names) - 1 else "latent",
            )
            for index, (name, prompt) in enumerate(zip(names, prompts, strict=True))
        ],
    )
