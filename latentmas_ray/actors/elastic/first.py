"""How many replicas a run starts with, where it need not wait for all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import ray

from latentmas_ray.actors.agent_actor import Loaded
from latentmas_ray.actors.replicas.placement_group import PlacementGroupHandle
from latentmas_ray.actors.replicas.replica import Replica
from latentmas_ray.errors import InputError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.placement import Plan, PlanRequest, ReplicaId, make_plan
from latentmas_ray.placement.resources import ActorResources

_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Seat:
    """The bundles of a placement group in which the actors of a replica are, and the nodes of these."""

    group: PlacementGroupHandle
    bundles: tuple[int, ...]
    nodes: tuple[str, ...]
    share: ActorResources


def seats_of(group: PlacementGroupHandle, plan: Plan) -> dict[ReplicaId, Seat]:
    """Return where each replica of the plan is in its placement group."""
    places: dict[ReplicaId, list[tuple[int, str]]] = {}
    for index, shard in enumerate(plan.shards()):
        node = plan.request.nodes[shard.slot.node].name
        places.setdefault(shard.replica_id, []).append((group.bundle_of(index), node))
    return {
        replica_id: Seat(
            group,
            tuple(bundle for bundle, _ in ranks),
            tuple(node for _, node in ranks),
            replace(plan.share, num_gpus=plan.gpus_of(plan.slots[replica_id][0])),
        )
        for replica_id, ranks in places.items()
    }


def accept_loaded(
    replicas: Mapping[ReplicaId, Replica], loaded: Mapping[Replica, Sequence[Loaded]], models: Mapping[str, str]
) -> None:
    """Mark the replicas READY that are `loaded`. Raises IncompatibleMemoryError if two of one model did not load the
    same; `models` are those of the agents that have another than most."""
    specs: dict[str | None, KVCacheSpec] = {}
    for replica_id, replica in replicas.items():
        if replica in loaded:
            spec = replica.accept(loaded[replica])
            specs.setdefault(models.get(replica_id.agents[0]), spec).check_same(spec)


def first_plan(
    request: PlanRequest, least: Mapping[str, int], plan_all: Callable[[PlanRequest], Plan] = make_plan
) -> Plan:
    """Return the plan to start with: that of `plan_all` for all replicas; or, if an agent may start with fewer
    (`least`), the most for which no actor has a smaller share of a GPU or of cores than with the least. Raises
    like `make_plan`."""
    if not least:
        return plan_all(request)
    least = {agent: least.get(agent, count) for agent, count in request.replicas.items()}
    best = make_plan(replace(request, replicas=least))
    share = best.share
    low, high = 0, max(request.replicas[agent] - count for agent, count in least.items())
    while low < high:
        more = (low + high + 1) // 2
        counts = {agent: min(request.replicas[agent], count + more) for agent, count in least.items()}
        try:
            plan = make_plan(replace(request, replicas=counts))
            fits = plan.share.num_gpus >= share.num_gpus and plan.share.num_cpus >= share.num_cpus
        except InputError:
            fits = False
        if fits:
            low, best = more, plan
        else:
            high = more - 1
    return best


def share_of_added(plan: Plan) -> ActorResources:
    """Return what each actor asks for that is added: a whole GPU, where the plan's actors have different parts."""
    return replace(plan.share, num_gpus=1.0) if plan.divides_gpus and plan.share.num_gpus else plan.share


def replicas_to_start_with(
    references: Mapping[Replica, Sequence[ray.ObjectRef]],
    by_agent: Mapping[str, Sequence[Replica]],
    least: Mapping[str, int],
) -> list[Replica]:
    """Return the replicas that have loaded, if they are at least so many of each agent (`least`), else all.

    `references` become ready when an actor has loaded. Waits a second at most.
    """
    if not least:
        return list(references)
    up = loaded_of(references, timeout_seconds=_LOOK_SECONDS)
    enough = all(
        sum(replica in up for replica in replicas) >= min(least.get(agent, len(replicas)), len(replicas))
        for agent, replicas in by_agent.items()
    )
    return up if enough else list(references)


def loaded_of(references: Mapping[Replica, Sequence[ray.ObjectRef]], *, timeout_seconds: float = 0.0) -> list[Replica]:
    """Return the replicas all of whose references are ready; waits so long for the others."""
    waiting = [reference for refs in references.values() for reference in refs]
    ready = set(ray.wait(waiting, num_returns=len(waiting), timeout=timeout_seconds)[0])
    return [replica for replica, refs in references.items() if ready.issuperset(refs)]


def describe_first(asked: Mapping[str, int], replicas: Mapping[str, Sequence[Replica]]) -> str:
    """Return in one line what the run still waits for; nothing if all are up."""
    up = {agent: sum(replica.is_up for replica in members) for agent, members in replicas.items()}
    missing = [f"{up[agent]} of {count} of {agent}" for agent, count in asked.items() if up[agent] < count]
    if not missing:
        return ""
    return f"the run starts with {', '.join(missing)}; the other replicas follow when they have places and models"
