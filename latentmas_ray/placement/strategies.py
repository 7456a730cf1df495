"""From a request to a plan, or to what is missing for one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil

from latentmas_ray.config import PlacementName
from latentmas_ray.placement.assignment import Chain, Seats, assign_packed, assign_spread
from latentmas_ray.placement.plan import Plan, PlanRequest
from latentmas_ray.placement.resources import ActorResources, NodeResources, divide_resources
from latentmas_ray.units import format_bytes

ALIKE = "with placement colocate all agents have the same actors, and so one number of replicas"
# Tried in this order by `auto`.
STRATEGIES: tuple[PlacementName, ...] = ("pack", "spread", "colocate")
SeatAll = Callable[[Sequence[Chain], Sequence[NodeResources], ActorResources, int], Seats | None]


@dataclass(frozen=True)
class Infeasible:
    """Why there is no plan: the field that is too small or large, and what is missing."""

    field: str
    reason: str


def try_plan(request: PlanRequest) -> Plan | Infeasible:
    """The plan of a request, or what stands against it; `auto` takes the first strategy that fits and says why."""
    if (misfit := _check_tp(request)) is not None:
        return misfit
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
    """Whether some node has GPUs for all ranks of a replica, and the model divides among them."""
    tp, model = request.tp, request.model
    if tp == 1:
        return None
    most = max((node.whole_gpus for node in request.nodes), default=0)
    if most and tp > most:
        return Infeasible(
            "tp", f"the {tp} ranks of a replica need {tp} GPUs of one node, and no node has more than {most}"
        )
    if model is not None and (model.num_kv_heads % tp or model.num_heads % tp or model.mlp_size % tp):
        return Infeasible("tp", f"it must divide the model's {model.num_kv_heads} KV heads and {model.num_heads} heads")
    num_teams, places = sum(request.replicas.values()), sum(node.whole_gpus // tp for node in request.nodes)
    if request.placement == "colocate":
        num_teams = request.num_chains
    if most and num_teams > places and request.placement != "auto":
        return _too_few_gpus(request, num_teams, places)
    return None


def _too_few_gpus(request: PlanRequest, num_teams: int, places: int) -> Infeasible:
    missing = (num_teams - places) * request.tp
    return Infeasible(
        "tp",
        f"ranks need GPUs of their own: {num_teams} replicas with {request.tp} ranks each, and the nodes have room for "
        f"{places}; {missing} GPUs more are needed",
    )


def _try_strategy(request: PlanRequest, strategy: PlacementName, why: str, *, shares_more: bool) -> Plan | Infeasible:
    """`shares_more`: actors may share GPUs and cores further than their number asks for, to stay on one node."""
    is_colocated = strategy == "colocate"
    if is_colocated and len(set(request.replicas.values())) > 1:
        return Infeasible("replicas", ALIKE)
    chains = request.colocated() if is_colocated else request.chains()
    num_shards = sum(map(len, chains)) * request.tp
    slot: SeatAll = assign_spread if strategy == "spread" else assign_packed
    first = _share(request, num_shards, is_colocated=is_colocated)
    if request.tp > 1 and first.actors_per_gpu > 1:
        places = sum(node.whole_gpus // request.tp for node in request.nodes)
        return _too_few_gpus(request, num_shards // request.tp, places)
    for share in _shares(request, chains, first, shares_more=shares_more and strategy == "pack"):
        if (slots := slot(chains, request.nodes, share, request.tp)) is not None:
            plan = Plan(request=request, strategy=strategy, why=why, share=share, slots=slots)
            return _check_memory(plan) or plan
    return Infeasible("placement", _no_room(request, chains, first))


def _no_room(request: PlanRequest, chains: Sequence[Chain], share: ActorResources) -> str:
    longest = max(map(len, chains)) * request.tp
    what, most = "cores", max((share.places_on(node) or 0 for node in request.nodes), default=0)
    if share.num_gpus:
        what, most = "GPUs", max(node.whole_gpus for node in request.nodes) * share.actors_per_gpu
    if longest > most:
        return f"a node would need {what} for a chain of {longest} actors, and none has them for more than {most}"
    return f"not every chain of {longest} actors finds a node with {what} for all of it"


def _shares(
    request: PlanRequest, chains: Sequence[Chain], first: ActorResources, *, shares_more: bool
) -> list[ActorResources]:
    """The largest share, then smaller ones."""
    if not shares_more:
        return [first]
    longest = max(map(len, chains)) * request.tp
    num_shards = sum(map(len, chains)) * request.tp
    if first.num_gpus:
        least = range(first.actors_per_gpu + 1, (longest * len(chains) if request.tp == 1 else 0) + 1)
        return [first, *(_share(request, num_shards, least_per_gpu=number) for number in least)]
    return [first, _share(request, num_shards, group_size=longest, num_groups=len(chains))]


def _share(
    request: PlanRequest,
    num_shards: int,
    *,
    is_colocated: bool = False,
    least_per_gpu: int = 1,
    group_size: int = 1,
    num_groups: int | None = None,
) -> ActorResources:
    teams_at_work = 1 if is_colocated else request.busy_agents
    if group_size == 1 and request.tp > 1:
        group_size, num_groups = request.tp, ceil(num_shards / request.tp)
    return divide_resources(
        num_actors=num_shards,
        nodes=request.nodes,
        busy_actors=teams_at_work * request.num_chains * request.tp,
        least_per_gpu=least_per_gpu,
        group_size=group_size,
        num_groups=num_groups,
    )


def _check_memory(plan: Plan) -> Infeasible | None:
    """The GPU that lacks most, if any does."""
    worst: tuple[int, str] | None = None
    for slot, memory in plan.memory.items():
        size = plan.request.nodes[slot.node].gpu_bytes
        if slot.gpu is None or size is None or memory.total_bytes <= size:
            continue
        missing = memory.total_bytes - size
        parts = (
            f"weights {format_bytes(memory.weights_bytes)}, KV {format_bytes(memory.kv_bytes)}, "
            f"segments {format_bytes(memory.segments_bytes)}, allowance {format_bytes(memory.allowance_bytes)}"
        )
        needs = f"a GPU needs {format_bytes(memory.total_bytes)} ({parts}), {format_bytes(missing)} more than it has"
        worst = max(worst or (0, ""), (missing, needs))
    return None if worst is None else Infeasible("gpu_memory", worst[1])
