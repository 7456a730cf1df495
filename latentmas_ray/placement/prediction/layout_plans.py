"""Plans of layouts: which device hosts which actors, and whether their memory fits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor

from latentmas_ray.config import PlacementName
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.assignment import ReplicaId, Slot, Slots
from latentmas_ray.placement.gpu_memory import GpuMemory, rows_on
from latentmas_ray.placement.plan import Plan, PlanRequest, gpu_sizes
from latentmas_ray.placement.prediction.layouts import Contents, Layout
from latentmas_ray.placement.resources import ActorResources, divide_resources
from latentmas_ray.units import format_bytes

SEARCHED = "the most questions per second, as predicted"


def plan_layout(request: PlanRequest, counts: Mapping[Contents, int]) -> Plan:
    """Return the plan in which so many devices host these agents, each in an actor of its own: what `+` means in
    `replicas`.

    Raises ConfigError if there are too few devices, if they are too small, and for a placement or `tp` that excludes
    shared devices.
    """
    layout, text = Layout(counts), format_devices(counts)
    if request.placement not in ("auto", "pack"):
        expected = f"agents joined by + share devices, which placement {request.placement} excludes: use auto or pack"
        raise ConfigError("replicas", text, expected)
    if request.tp > 1:
        raise ConfigError("replicas", text, "agents joined by + share devices, and the ranks of tp need their own GPUs")
    places = devices_of(request)
    if sum(counts.values()) > len(places):
        kind = "GPUs" if any(node.whole_gpus for node in request.nodes) else "nodes with cores"
        raise ConfigError("replicas", text, f"it needs {sum(counts.values())} {kind}, and there are {len(places)}")
    if request.model is not None and not fits(request, layout):
        sizes = ", ".join(map(format_bytes, gpu_sizes(request.nodes)))
        raise ConfigError("replicas", text, f"the actors that share a GPU do not fit into its memory ({sizes})")
    return plan_of(request, layout, places, why="asked for")


def format_devices(counts: Mapping[Contents, int]) -> str:
    """Return the text of `replicas` for this layout, as in `planner+critic=1,judger=7`."""
    return ",".join(f"{'+'.join(contents)}={count}" for contents, count in counts.items())


def fits(request: PlanRequest, layout: Layout) -> bool:
    """Return whether the memory of a GPU suffices for the actors on it, and nothing else excludes the layout."""
    tp = request.tp
    if tp > 1 and layout.shares_devices:
        return False  # the ranks of a replica need GPUs of their own
    if layout.is_colocated and not request.have_one_model(*request.agents):
        return False
    if request.model is None:
        return True
    if request.indivisible(tp) is not None:
        return False
    if not (sizes := gpu_sizes(request.nodes)):
        return True
    memory = GpuMemory(request)
    return all(
        memory.shortage([contents] if layout.is_colocated else [(agent,) for agent in contents], sizes[0]) is None
        for contents in layout.counts
    )


def plan_of(request: PlanRequest, layout: Layout, places: Sequence[tuple[Slot, ...]], *, why: str = SEARCHED) -> Plan:
    """Return the plan of a layout on these devices, in this order: a node is filled before the next one is used, and
    each has its part of every kind of device, so that chains stay on a node where they can."""
    # In an order that does not depend on how the layout was written down.
    in_order = sorted(layout.counts.items(), key=lambda item: [request.agents.index(agent) for agent in item[0]])
    devices = sorted(
        ((number + 0.5) / count, order, contents)
        for order, (contents, count) in enumerate(in_order)
        for number in range(count)
    )
    replicas = dict.fromkeys(request.agents, 0)
    slots: Slots = {}
    for (_, _, contents), place in zip(devices, places, strict=False):
        for agents in [contents] if layout.is_colocated else [(agent,) for agent in contents]:
            slots[ReplicaId(agents, replicas[agents[0]])] = place
            for agent in agents:
                replicas[agent] += 1
    strategy: PlacementName = "colocate" if layout.is_colocated else "pack"
    most = 1 if layout.is_colocated else max(map(len, layout.counts))
    rows = request.written_at_once if layout.is_colocated else _fewest_rows(request, layout)
    made = replace(request, replicas=replicas, placement=strategy, written_at_once=rows)
    return Plan(
        request=made,
        strategy=strategy,
        why=why,
        share=_share(made, layout.num_actors * request.tp, most),
        slots=slots,
        divides_gpus=layout.shares_devices,
    )


def _fewest_rows(request: PlanRequest, layout: Layout) -> dict[str, int]:
    """Return how many questions each agent writes at the same time where most actors share its GPU."""
    rows = dict(request.written_at_once)
    for contents in layout.counts:
        here = rows_on(request, len(contents))
        rows |= {agent: min(rows[agent], here[agent]) for agent in request.apart.intersection(contents, here)}
    return rows


def _share(request: PlanRequest, num_actors: int, most_on_device: int) -> ActorResources:
    """Return what each actor asks Ray for, if at most `most_on_device` are on one device."""
    if any(node.whole_gpus for node in request.nodes):
        return divide_resources(
            num_actors=num_actors,
            nodes=request.nodes,
            busy_actors=num_actors,
            least_per_gpu=most_on_device,
        )
    cores = min(node.num_cpus for node in request.nodes if node.num_cpus >= 1)
    return ActorResources(
        num_gpus=0.0,
        num_cpus=min(1.0, floor(100 * cores / most_on_device) / 100),
        num_threads=max(1, floor(cores) // most_on_device),
    )


def devices_of(request: PlanRequest) -> list[tuple[Slot, ...]]:
    """Return the devices of a cluster, node by node; with `tp` above 1, groups of that many GPUs of one node."""
    has_gpus = any(node.whole_gpus for node in request.nodes)
    if not has_gpus:
        return [(Slot(number, None),) * request.tp for number, node in enumerate(request.nodes) if node.num_cpus >= 1]
    return [
        tuple(Slot(number, gpu) for gpu in range(first, first + request.tp))
        for number, node in enumerate(request.nodes)
        for first in range(0, node.whole_gpus - request.tp + 1, request.tp)
    ]
