"""Suggestions for a request without a plan: the nearest requests that fit."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.plan import Plan, PlanRequest, gpu_sizes
from latentmas_ray.placement.resources import NodeResources
from latentmas_ray.placement.strategies import STRATEGIES, Infeasible, try_plan
from latentmas_ray.units import format_bytes

_MOST_NODES = 1024


def make_plan(request: PlanRequest) -> Plan:
    """Return the plan of a request. Raises ConfigError with what is missing and what would fit."""
    outcome = try_plan(request)
    if isinstance(outcome, Plan):
        return outcome
    suggested = list(_suggestions(request)) if request.model is not None else []
    advice = f"; what fits: {', or '.join(suggested)}" if suggested else ""
    raise ConfigError(outcome.field, _value(request, outcome), outcome.reason + advice)


def _value(request: PlanRequest, infeasible: Infeasible) -> object:
    if infeasible.field == "gpu_memory":
        return ", ".join(map(format_bytes, gpu_sizes(request.nodes)))
    if infeasible.field == "replicas":
        return ",".join(f"{agent}={count}" for agent, count in request.replicas.items())
    return getattr(request, infeasible.field)


def _suggestions(request: PlanRequest) -> Iterator[str]:
    """Yield changes of one field each, first those that leave the workload as it is."""
    most = max((node.whole_gpus for node in request.nodes), default=0)
    for tp in (size for size in (1, 2, 4, 8, 16) if size != request.tp and size <= most):
        outcome = try_plan(replace(request, tp=tp))
        if isinstance(outcome, Plan):
            is_other = outcome.is_colocated and request.placement == "auto"
            yield f"--tp {tp}" + (" (colocated)" if is_other else "")
            break
    for strategy in STRATEGIES:
        if strategy != request.placement and _fits(replace(request, placement=strategy)):
            yield f"--placement {strategy}"
            break
    if suggested_batch := _largest_batch(request):
        yield f"--batch-size {suggested_batch}"
    if written := _largest_decode_batch(request):
        yield f"--decode-batch {written}"
    if request.num_pipelines > 1 and _fits(replace(request, replicas=dict.fromkeys(request.agents, 1))):
        yield "--replicas 1"
    if not suggested_batch and (smallest := _smallest_run(request)):
        yield smallest
    if num_nodes := _fewest_nodes(request):
        yield f"--nodes {num_nodes}"
    if (size := _gpu_bytes(request)) is not None:
        yield f"GPUs of {format_bytes(size)}"


def _fits(request: PlanRequest) -> bool:
    return isinstance(try_plan(request), Plan)


def _largest_batch(request: PlanRequest) -> int:
    """Return the largest batch below the requested one that fits; 0 if not even one question fits."""
    return _largest(
        request.workload.batch_size,
        lambda size: _fits(replace(request, workload=replace(request.workload, batch_size=size))),
    )


def _largest_decode_batch(request: PlanRequest) -> int:
    """Return the largest number of questions written at the same time that fits, if all such agents have fewer than
    now; 0 if there are none or not even one question fits."""
    agents = request.written_at_once
    return _largest(
        max(agents.values(), default=0),
        lambda size: _fits(replace(request, written_at_once=dict.fromkeys(agents, size))),
    )


def _largest(too_large: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number below `too_large` that fits; 0 if none does."""
    fitting = 0
    while too_large - fitting > 1:
        middle = (fitting + too_large) // 2
        if fits(middle):
            fitting = middle
        else:
            too_large = middle
    return fitting


def _smallest_run(request: PlanRequest) -> str:
    """Return flags for one replica of each agent with any placement and the largest batch that fits; empty if none."""
    smallest = replace(request, placement="auto", replicas=dict.fromkeys(request.agents, 1))
    batch = request.workload.batch_size if _fits(smallest) else _largest_batch(smallest)
    return f"--placement auto --replicas 1 --batch-size {batch}" if batch else ""


def _fewest_nodes(request: PlanRequest) -> int:
    """Return the fewest nodes like the first one that are enough, above the present number; 0 if no number is."""
    node, present = request.nodes[0], len(request.nodes)

    def fits(count: int) -> bool:
        return _fits(replace(request, nodes=(node,) * count))

    enough = present + 1
    while not fits(enough):
        if enough >= _MOST_NODES:
            return 0
        enough = min(2 * enough, _MOST_NODES)
    too_few = present
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if fits(middle):
            enough = middle
        else:
            too_few = middle
    return enough


def _gpu_bytes(request: PlanRequest) -> int | None:
    """Return the GPU size that the request as it is would need; None if GPU size is not what is missing."""
    if not gpu_sizes(request.nodes):
        return None
    outcome = try_plan(replace(request, nodes=tuple(_without_limit(node) for node in request.nodes)))
    return max(memory.total_bytes for memory in outcome.memory.values()) if isinstance(outcome, Plan) else None


def _without_limit(node: NodeResources) -> NodeResources:
    return replace(node, gpu_bytes=None)
