"""Finds a plan for a request, or the reason why there is none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from latentmas_ray.config import PlacementName
from latentmas_ray.placement.assignment import Pipeline, Slot, Slots, assign_packed, assign_spread
from latentmas_ray.placement.gpu_memory import GpuMemory
from latentmas_ray.placement.plan import Plan, PlanRequest
from latentmas_ray.placement.resources import ActorResources, NodeResources, divide_resources

EQUAL_REPLICAS = "with placement colocate all agents share actors, so they need one number of replicas"
# Tried in this order by `auto`.
STRATEGIES: tuple[PlacementName, ...] = ("pack", "spread", "colocate")
_Assign = Callable[[Sequence[Pipeline], Sequence[NodeResources], ActorResources, int], Slots | None]


@dataclass(frozen=True)
class Infeasible:
    """Why there is no plan: the field that is too small or too large, and what is missing."""

    field: str
    reason: str


def try_plan(request: PlanRequest) -> Plan | Infeasible:
    """Return a plan for the request, or the reason why there is none. `auto` uses the first strategy that fits."""
    if (infeasible := _check_tp(request)) is not None:
        return infeasible
    if request.placement != "auto":
        return _try_strategy(request, request.placement, "asked for", shares_more=True)
    first: Infeasible | None = None
    for strategy in STRATEGIES:
        why = f"pack does not fit: {first.reason}" if first else "the agents of a chain fit on one node"
        outcome = _try_strategy(request, strategy, why, shares_more=False)
        if isinstance(outcome, Plan):
            return outcome
        first = first or outcome
    assert first is not None
    return first


def _check_tp(request: PlanRequest) -> Infeasible | None:
    """Check that a node has GPUs for all ranks of a replica, and that the model divides among them."""
    tp = request.tp
    if tp == 1:
        return None
    most = max((node.whole_gpus for node in request.nodes), default=0)
    if most and tp > most:
        return Infeasible(
            "tp", f"the {tp} ranks of a replica need {tp} GPUs of one node, and no node has more than {most}"
        )
    if (model := request.indivisible(tp)) is not None:
        return Infeasible("tp", f"it must divide the model's {model.num_kv_heads} KV heads and {model.num_heads} heads")
    num_replicas, num_fitting = sum(request.replicas.values()), sum(node.whole_gpus // tp for node in request.nodes)
    if request.placement == "colocate":
        num_replicas = request.num_pipelines
    if most and num_replicas > num_fitting and request.placement != "auto":
        return _too_few_gpus(request, num_replicas, num_fitting)
    return None


def _too_few_gpus(request: PlanRequest, num_replicas: int, num_fitting: int) -> Infeasible:
    missing = (num_replicas - num_fitting) * request.tp
    return Infeasible(
        "tp",
        f"ranks need GPUs of their own: there are {num_replicas} replicas with {request.tp} ranks each, and the nodes "
        f"have room for {num_fitting}; {missing} GPUs more are needed",
    )


def _try_strategy(request: PlanRequest, strategy: PlacementName, why: str, *, shares_more: bool) -> Plan | Infeasible:
    """Plan with one strategy. `shares_more`: actors may share GPUs and cores more than they must to fit on one node."""
    is_colocated = strategy == "colocate"
    if is_colocated and request.apart:
        names = ", ".join(name for name in request.agents if name in request.apart)
        return Infeasible("placement", f"vLLM, which writes for {names}, needs an actor of its own")
    if is_colocated and not request.have_one_model(*request.agents):
        return Infeasible("placement", f"{different_models(request)}, and agents of one actor share its model")
    if is_colocated and len(set(request.replicas.values())) > 1:
        return Infeasible("replicas", EQUAL_REPLICAS)
    pipelines = request.colocated() if is_colocated else request.pipelines()
    num_shards = sum(map(len, pipelines)) * request.tp
    assign: _Assign = assign_spread if strategy == "spread" else assign_packed
    first = _resources(request, num_shards, is_colocated=is_colocated)
    if request.tp > 1 and first.actors_per_gpu > 1:
        num_fitting = sum(node.whole_gpus // request.tp for node in request.nodes)
        return _too_few_gpus(request, num_shards // request.tp, num_fitting)
    for share in _candidates(request, pipelines, first, shares_more=shares_more and strategy == "pack"):
        if (slots := assign(pipelines, request.nodes, share, request.tp)) is not None:
            plan = Plan(request=request, strategy=strategy, why=why, share=share, slots=slots)
            return _check_memory(plan) or plan
    return Infeasible("placement", _why_not(request, pipelines, first))


def different_models(request: PlanRequest) -> str:
    """Say which agents have another model than the first one without."""
    names = ", ".join(f"{agent} has {model}" for agent, model in request.other_models.items())
    return f"agents have different models ({names})"


def _why_not(request: PlanRequest, pipelines: Sequence[Pipeline], share: ActorResources) -> str:
    longest = max(map(len, pipelines)) * request.tp
    what, most = "cores", max((share.places_on(node) or 0 for node in request.nodes), default=0)
    if share.num_gpus:
        what, most = "GPUs", max(node.whole_gpus for node in request.nodes) * share.actors_per_gpu
    if longest > most:
        return f"a node would need {what} for a chain of {longest} actors, and none has them for more than {most}"
    return f"some chain of {longest} actors has no node with enough {what} for all of it"


def _candidates(
    request: PlanRequest, pipelines: Sequence[Pipeline], first: ActorResources, *, shares_more: bool
) -> list[ActorResources]:
    """Return the resources of an actor to try, largest first."""
    if not shares_more:
        return [first]
    longest = max(map(len, pipelines)) * request.tp
    num_shards = sum(map(len, pipelines)) * request.tp
    if first.num_gpus:
        least = range(first.actors_per_gpu + 1, (longest * len(pipelines) if request.tp == 1 else 0) + 1)
        return [first, *(_resources(request, num_shards, least_per_gpu=number) for number in least)]
    return [first, _resources(request, num_shards, group_size=longest, num_groups=len(pipelines))]


def _resources(
    request: PlanRequest,
    num_shards: int,
    *,
    is_colocated: bool = False,
    least_per_gpu: int = 1,
    group_size: int = 1,
    num_groups: int | None = None,
) -> ActorResources:
    busy_replicas = 1 if is_colocated else request.busy_agents
    if group_size == 1 and request.tp > 1:
        group_size, num_groups = request.tp, ceil(num_shards / request.tp)
    return divide_resources(
        num_actors=num_shards,
        nodes=request.nodes,
        busy_actors=busy_replicas * request.num_pipelines * request.tp,
        least_per_gpu=least_per_gpu,
        group_size=group_size,
        num_groups=num_groups,
    )


def _check_memory(plan: Plan) -> Infeasible | None:
    """Return the GPU that lacks the most memory, or None if all have enough."""
    if plan.request.model is None or plan.request.topology is None:
        return None
    on_gpu: dict[Slot, list[tuple[str, ...]]] = {}
    for shard in plan.shards():
        on_gpu.setdefault(shard.slot, []).append(shard.replica_id.agents)
    kinds = {
        (tuple(sorted(actors)), size)
        for slot, actors in on_gpu.items()
        if slot.gpu is not None and (size := plan.request.nodes[slot.node].gpu_bytes) is not None
    }
    memory = GpuMemory(plan.request)
    found = [short for actors, size in kinds if (short := memory.shortage(actors, size)) is not None]
    return Infeasible("gpu_memory", max(found)[1]) if found else None
