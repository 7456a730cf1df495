"""The plan of a simulated run: how many replicas each agent has, and where they are."""

from collections.abc import Mapping

from latentmas_ray.config import PlacementName
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement import ModelDims, Plan, PlanRequest, Workload, make_plan, nodes_alike
from latentmas_ray.placement.model_dims import PRESETS, known_dims
from latentmas_ray.placement.prediction.hardware import HARDWARE, Hardware
from latentmas_ray.placement.prediction.layout_search import LayoutSearch
from latentmas_ray.placement.prediction.layouts import divide
from latentmas_ray.placement.prediction.turn_costs import Efficiency, PhaseCost, StepModel, TurnCost, turn_costs
from latentmas_ray.simulation.settings import AUTO, BALANCED, SimulationSettings
from latentmas_ray.topology import Topology
from latentmas_ray.topology.validation import did_you_mean

_CORES_PER_GPU = 8
_OTHER_GPUS = "a100-80gb"  # where none are named: nothing but their name is read, as the turns' seconds are given


def make_cluster(settings: SimulationSettings, topology: Topology, num_nodes: int) -> Plan:
    """Return the plan on `num_nodes` equal nodes. Raises ConfigError if there is none, or the model is unknown."""
    seconds = seconds_by_agent(settings, topology)
    num_gpus = num_nodes * settings.gpus_per_node
    placement: PlacementName = settings.placement  # type: ignore[assignment]
    if settings.replicas == AUTO:
        replicas = dict.fromkeys(seconds, 1)
    elif settings.replicas != BALANCED:
        replicas = dict.fromkeys(seconds, int(settings.replicas))
    elif placement == "colocate" or num_gpus < len(seconds):
        replicas = dict.fromkeys(seconds, num_gpus if placement == "colocate" else 1)
    else:
        replicas = divide(tuple(seconds), seconds, num_gpus)
    request = PlanRequest(
        agents=tuple(seconds),
        replicas=replicas,
        nodes=nodes_alike(
            num_nodes,
            num_gpus=settings.gpus_per_node,
            num_cpus=_CORES_PER_GPU * settings.gpus_per_node,
            gpu_bytes=None if settings.gpus is None else settings.gpus.memory_bytes,
        ),
        placement=placement,
        busy_agents=len(seconds),
        topology=topology,
        model=_figures(settings.model),
        workload=_workload(settings),
    )
    try:
        return _search(settings, request, seconds) if settings.replicas == AUTO else make_plan(request)
    except ConfigError as error:
        if error.field != "gpu_memory":
            raise
        # The advice of plans names flags that are none here.
        missing = error.expected.partition("; what fits")[0]
        expected = f"for {settings.model} {missing}: it takes larger GPUs, a smaller model or a smaller batch"
        raise ConfigError("hardware", settings.hardware, expected) from None


def _search(settings: SimulationSettings, request: PlanRequest, seconds: Mapping[str, float]) -> Plan:
    """Return the plan of a run with `replicas auto` whose turns take these seconds."""
    search = LayoutSearch(
        request=request,
        hardware=settings.gpus or HARDWARE[_OTHER_GPUS],
        speeds=settings.speeds,
        measured={name: _cost_of(name, of_batch / settings.batch_size) for name, of_batch in seconds.items()},
        divides_models=False,  # the seconds are those of one GPU
    )
    return search.find()[0].plan


def _cost_of(agent: str, seconds: float) -> TurnCost:
    """Return the cost of turns that take so many seconds for each question, whatever their phases."""
    none = PhaseCost()
    return TurnCost(agent=agent, prefill=none, think=PhaseCost(seconds=seconds), decode=none)


def seconds_by_agent(settings: SimulationSettings, topology: Topology) -> dict[str, float]:
    """Return the mean seconds of each agent's turn, in topological order: those of the settings, or as predicted for
    their hardware. Raises ConfigError for an unknown model."""
    costs = {} if settings.gpus is None else _predicted(settings, settings.gpus, topology)
    given = ((agent.name, settings.mean_seconds[agent.thinks]) for agent in topology.agents)
    return {name: costs[name] if seconds is None else seconds for name, seconds in given}


def _predicted(settings: SimulationSettings, gpus: Hardware, topology: Topology) -> dict[str, float]:
    device = StepModel(model=_figures(settings.model), hardware=gpus, efficiency=Efficiency(), links=settings.speeds)
    costs = turn_costs(topology, _workload(settings), {}, device)  # per question
    return {agent: cost.seconds * settings.batch_size for agent, cost in costs.items()}


def _workload(settings: SimulationSettings) -> Workload:
    return Workload(
        batch_size=settings.batch_size,
        prompt_tokens=settings.prompt_tokens,
        latent_steps=settings.latent_steps,
        max_new_tokens=settings.max_new_tokens,
    )


def _figures(model: str) -> ModelDims:
    found = known_dims(model) if model.strip() else None
    if found is None:
        expected = f"it must be {', '.join(PRESETS)}, or a model's folder"
        raise ConfigError("model", model, did_you_mean(model, tuple(PRESETS)) + expected)
    if not found.caches_alike:
        raise ConfigError("model", model, "its layers must all cache a key and a value alike, as in a dense decoder")
    return found
