"""The configurations of the models that one configuration serves: each topology under each method.

The first topology decides which actors there are, so what a configuration says of single agents is about its agents.
What is about latent thoughts, about agents that another topology or method does not have, or about deciding between
answers where there is one, does not concern the others.
"""

from collections.abc import Sequence
from typing import Final, Literal

from latentmas_ray.config import RunConfig
from latentmas_ray.errors import TopologyError
from latentmas_ray.tasks.given import question_from
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import RenderedPrompts, Topology

ServedMethod = Literal["latent", "single", "text"]
_NO_MAPPING: Final = "prompts of a served team can show question and answer_form, and context where they read texts"


def served_methods(topology: Topology) -> Sequence[ServedMethod]:
    """Return the methods under which a topology is served, the one whose agents get actors first."""
    is_latent = any(agent.thinks == "latent" for agent in topology.agents)
    return ("latent", "single", "text") if is_latent else ("text", "single")


def variant_config(
    config: RunConfig, name: str, topology: Topology, method: ServedMethod, *, has_actors: bool, is_first: bool
) -> RunConfig:
    """Return the configuration of one served model. `name` is that of the topology, `topology` its content. `is_first`:
    of the first topology; `has_actors`: it is the model that decides which actors there are."""
    changes: dict[str, object] = {"topology": name, "method": method}
    if method != "latent":
        changes |= {"memory": "matched", "guard": "off"}
    if not is_first:
        names = {agent.name for agent in topology.agents}
        changes["models"] = {agent: model for agent, model in config.models.items() if agent in names}
    if not has_actors:
        if not isinstance(config.replicas, int | str):
            changes["replicas"] = config.most_replicas
        changes |= {"min_replicas": None, "max_replicas": None}
    if not has_actors and (method == "single" or config.samples * len(topology.answering_agents) == 1):
        decides = None if config.decides is None or config.samples == 1 else "majority"
        changes |= {"decides": decides, "decide_accuracies": None}
    return config.model_copy(update=changes)


def check_prompts(topology: Topology, name: str) -> None:
    """Raise TopologyError for a prompt that no request can render, such as one that shows a field of a task's
    questions: every request would be refused."""
    try:
        RenderedPrompts.of(topology, [_example()])
    except TopologyError as error:
        expected = f"a request to {name} does not have it: {_NO_MAPPING}; serve another task or topology"
        raise TopologyError(error.field, error.value, expected) from error


def _example() -> Question:
    return question_from({"id": "q0", "question": "How many?"}, index=0).with_earlier("Be brief.", ())
