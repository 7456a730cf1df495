"""The plan of a simulated run: how many replicas each agent has, and where they are."""

from collections.abc import Mapping

from latentmas_ray.config import PlacementName
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement import ModelDims, Plan, PlanRequest, Workload, make_plan, nodes_alike
from latentmas_ray.placement.model_dims import PRESETS, known_dims
from latentmas_ray.simulation.settings import BALANCED, SimulationSettings
from latentmas_ray.topology import Topology

_CORES_PER_GPU = 8


def make_cluster(settings: SimulationSettings, topology: Topology, num_nodes: int) -> Plan:
    """Return the plan on `num_nodes` equal nodes. Raises ConfigError if there is none, or the model is unknown."""
    seconds = seconds_by_agent(settings, topology)
    num_gpus = num_nodes * settings.gpus_per_node
    placement: PlacementName = settings.placement  # type: ignore[assignment]
    if settings.replicas != BALANCED:
        replicas = dict.fromkeys(seconds, int(settings.replicas))
    elif placement == "colocate" or num_gpus < len(seconds):
        replicas = dict.fromkeys(seconds, num_gpus if placement == "colocate" else 1)
    else:
        replicas = balanced(seconds, num_gpus)
    return make_plan(
        PlanRequest(
            agents=tuple(seconds),
            replicas=replicas,
            nodes=nodes_alike(
                num_nodes, num_gpus=settings.gpus_per_node, num_cpus=_CORES_PER_GPU * settings.gpus_per_node
            ),
            placement=placement,
            busy_agents=len(seconds),
            topology=topology,
            model=_figures(settings.model),
            workload=Workload(
                batch_size=settings.batch_size,
                prompt_tokens=settings.prompt_tokens,
                latent_steps=settings.latent_steps,
                max_new_tokens=settings.max_new_tokens,
            ),
        )
    )


def seconds_by_agent(settings: SimulationSettings, topology: Topology) -> dict[str, float]:
    """Return the mean seconds of each agent's turn, in topological order."""
    return {
        agent.name: settings.think_seconds if agent.thinks == "latent" else settings.write_seconds
        for agent in topology.agents
    }


def balanced(seconds: Mapping[str, float], num_gpus: int) -> dict[str, int]:
    """Return replicas that use all GPUs, at least one for each agent, so that the busiest agent has as little to do as
    possible: each further GPU goes to the agent with the most seconds per replica. `num_gpus` must be at least the
    number of agents."""
    replicas = dict.fromkeys(seconds, 1)
    for _ in range(num_gpus - len(seconds)):
        replicas[max(replicas, key=lambda agent: seconds[agent] / replicas[agent])] += 1
    return replicas


def _figures(model: str) -> ModelDims:
    found = known_dims(model)
    if found is None:
        raise ConfigError("model", model, f"it must be {', '.join(PRESETS)}, or a model's folder")
    return found
