"""What a served model is, for a client that chooses one: its agents, who reads whom, and its own settings."""

from typing import Any

from latentmas_ray.config import EMBEDDED_MODELS
from latentmas_ray.system.serving import ServedModel, topology_name
from latentmas_ray.tasks.trained import EXAMPLE_OF_CHAIN


def describe(model: ServedModel) -> dict[str, Any]:
    """Return the `latentmas` field of a model in `/v1/models`: topology, method, model, agents in the order of their
    turns, and what holds where a request says nothing. A model in a folder is named without its path."""
    config = model.config
    is_latent = config.method == "latent"
    return {
        "topology": topology_name(config.topology),
        "method": config.method,
        "model": config.model.rstrip("/").rpartition("/")[2],
        "agents": [
            {"name": agent.name, "thinks": agent.thinks, "reads": list(agent.reads)} for agent in model.topology.agents
        ],
        **({"latent_steps": config.latent_steps} if is_latent else {}),
        "max_tokens": config.max_new_tokens,
        **({"example": EXAMPLE_OF_CHAIN} if config.model in EMBEDDED_MODELS else {}),
    }
