"""Searches the layout over a whole cluster that answers the most questions per second, as predicted."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor

from latentmas_ray.config import MAX_REPLICAS, PlacementName
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.assignment import ReplicaId, Slot, Slots
from latentmas_ray.placement.link_speeds import LinkSpeeds
from latentmas_ray.placement.memory_estimate import memory_estimates, shard_memory
from latentmas_ray.placement.plan import Plan, PlanRequest, gpu_sizes
from latentmas_ray.placement.prediction.hardware import Hardware
from latentmas_ray.placement.prediction.layouts import Layout, contents_of, layouts_for, rate_of
from latentmas_ray.placement.prediction.throughput import Prediction, predict
from latentmas_ray.placement.prediction.turn_costs import Efficiency, StepModel, TurnCost, turn_costs
from latentmas_ray.placement.resources import ActorResources, divide_resources
from latentmas_ray.placement.strategies import try_plan
from latentmas_ray.placement.suggestions import make_plan

_MOST_PREDICTED = 16  # layouts that are predicted in full, with their hand-overs
_MANY_DEVICES = 64  # beyond these, where a prediction takes a part of a second, a quarter of as many
_NEARLY = 0.99  # of the most questions per second; among such layouts the one with the fewest actors is best
_MOST_DEVICES = 8192  # of a search
_TP = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class PredictedPlan:
    """A plan with its prediction. `layout` is None for the plan that a run without a search would have."""

    layout: Layout | None
    plan: Plan
    prediction: Prediction


@dataclass(frozen=True, kw_only=True)
class LayoutSearch:
    """What to search: `request` has the agents, nodes, topology, model, workload and placement; its replicas are not
    read. `placement` pack excludes colocated layouts, and colocate all others.

    `expected_tokens`: of a text; None: as many as the workload allows.
    """

    request: PlanRequest
    hardware: Hardware
    speeds: LinkSpeeds
    expected_tokens: int | None = None
    efficiency: Efficiency = field(default_factory=Efficiency)

    def find(self) -> list[PredictedPlan]:
        """Return the best plan first, and then all others by questions per second.

        A model that needs more than one GPU gets the fewest over which it fits, if `tp` of the request is 1. Raises
        ConfigError if no layout fits, for GPUs of unknown size, and for the placement spread.
        """
        if self.request.placement == "spread":
            raise ConfigError("placement", "spread", "with replicas auto it must be auto, pack or colocate")
        if any(node.whole_gpus and node.gpu_bytes is None for node in self.request.nodes):
            raise ConfigError("gpu_memory", "nothing", "a search needs the size of the GPUs: give it, or hardware")
        for tp in _TP if self.request.tp == 1 else (self.request.tp,):
            if found := self._find(replace(self.request, tp=tp)):
                return found
        alone = replace(self.request, replicas=dict.fromkeys(self.request.agents, 1))
        plan = make_plan(alone)  # which says what is missing
        costs = self.costs(self.request, is_colocated=plan.is_colocated)
        return [PredictedPlan(layout=None, plan=plan, prediction=predict(plan, costs, self.speeds))]

    @property
    def device_hardware(self) -> Hardware:
        """The figures of one device: a GPU, or the cores of the smallest node that has some."""
        cores = min((node.num_cpus for node in self.request.nodes if node.num_cpus >= 1), default=1.0)
        return self.hardware.of_cores(cores)

    @property
    def text_tokens(self) -> int:
        """The length that a text is expected to have: at most its limit."""
        most = self.request.workload.max_new_tokens
        return min(self.expected_tokens or most, most)

    def costs(self, request: PlanRequest, *, is_colocated: bool) -> dict[str, TurnCost]:
        """Return the predicted costs of the turns with the tp of `request`."""
        assert request.model is not None, "a search needs a model"
        assert request.topology is not None, "a search needs a topology"
        expected = replace(request.workload, max_new_tokens=self.text_tokens)
        device = StepModel(
            model=request.model,
            hardware=self.device_hardware,
            tp=request.tp,
            efficiency=self.efficiency,
            links=self.speeds,
        )
        # An actor with several agents computes whole batches.
        return turn_costs(request.topology, expected, {} if is_colocated else request.written_at_once, device)

    def _find(self, request: PlanRequest) -> list[PredictedPlan]:
        """Return the plans with the tp of `request`; none if no layout fits."""
        if not (places := _places(request)):
            return []
        if len(places) > _MOST_DEVICES:
            raise ConfigError("nodes", len(request.nodes), f"a search takes at most {_MOST_DEVICES} devices")
        costs = {is_colocated: self.costs(request, is_colocated=is_colocated) for is_colocated in (False, True)}
        seconds = {agent: cost.seconds for agent, cost in costs[False].items()}
        # First without hand-overs; then again with the seconds that those of the best layout take.
        first = self._predicted(request, costs, seconds, places)
        apart = next((one.prediction for one in first if not one.plan.is_colocated), None)
        if apart is None:
            return first
        waited = {agent: used / apart.questions_per_second for agent, used in apart.devices_used.items()}
        second = self._predicted(request, costs, {agent: used / request.tp for agent, used in waited.items()}, places)
        return in_order([*first, *(one for one in second if one.layout not in [other.layout for other in first])])

    def _predicted(
        self,
        request: PlanRequest,
        costs: Mapping[bool, Mapping[str, TurnCost]],
        seconds: Mapping[str, float],
        places: Sequence[tuple[Slot, ...]],
    ) -> list[PredictedPlan]:
        """Return the predictions of the most promising layouts, for agents that need these `seconds` of a device."""
        colocated = {agent: cost.seconds for agent, cost in costs[True].items()}
        ranked = [
            (rate_of(layout, colocated if layout.is_colocated else seconds), layout)
            for layout in layouts_for(request, seconds, len(places))
            if fits(request, layout)
        ]
        ranked.sort(key=lambda item: (-item[0], item[1].num_actors))
        most = _MOST_PREDICTED if len(places) <= _MANY_DEVICES else _MOST_PREDICTED // 4
        unlike = {_kinds(request, layout): layout for _, layout in reversed(ranked)}
        chosen = [layout for _, layout in ranked if unlike[_kinds(request, layout)] is layout]
        # Those that a run can have are among them in any case.
        chosen = chosen[:most] + [layout for layout in chosen[most:] if not layout.shares_devices]
        plans = [(layout, plan_of(request, layout, places)) for layout in chosen]
        return in_order(
            [
                PredictedPlan(
                    layout=layout, plan=plan, prediction=predict(plan, costs[layout.is_colocated], self.speeds)
                )
                for layout, plan in plans
            ]
        )


def _kinds(request: PlanRequest, layout: Layout) -> Hashable:
    """Return what two layouts have in common that differ only in which of the thinkers stand where."""
    assert request.topology is not None, "a search needs a topology"
    kinds = {agent.name: agent.thinks for agent in request.topology.agents}
    return layout.is_colocated, tuple(
        sorted((tuple(kinds[name] for name in contents), count) for contents, count in layout.counts.items())
    )


def run_of(found: Sequence[PredictedPlan]) -> tuple[PredictedPlan, Plan] | None:
    """Return the first of these plans that a run can have, and the run's own plan with its placement, tp and replicas.

    A run divides GPUs equally among all actors, so it cannot have a layout in which some share one and others do not;
    of those in which several actors share a GPU none is tried. None if there is no other.
    """
    for one in found:
        request = one.plan.request
        if request.num_pipelines > MAX_REPLICAS:
            continue
        wanted: PlacementName = "colocate" if one.plan.is_colocated else "auto"
        own = try_plan(replace(request, placement=wanted)) if one.layout and not one.layout.shares_devices else None
        if isinstance(own, Plan) and own.strategy == one.plan.strategy and contents_of(own) == contents_of(one.plan):
            return one, own
    return None


def in_order(found: Sequence[PredictedPlan]) -> list[PredictedPlan]:
    """Return the plans by questions per second; of those within 1 % of the most, that with the fewest actors first."""
    if not found:
        return []
    order = sorted(found, key=lambda one: (-one.prediction.questions_per_second, len(one.plan.slots)))
    most = order[0].prediction.questions_per_second
    nearly = [one for one in order if one.prediction.questions_per_second >= _NEARLY * most]
    best = min(nearly, key=lambda one: len(one.plan.slots))
    return [best, *(one for one in order if one is not best)]


def fits(request: PlanRequest, layout: Layout) -> bool:
    """Return whether the memory of a GPU suffices for the actors on it. Every actor has its own copy of the weights."""
    model, tp = request.model, request.tp
    assert model is not None, "a search needs a model"
    assert request.topology is not None, "a search needs a topology"
    if model.num_kv_heads % tp or model.num_heads % tp or model.mlp_size % tp:
        return False
    if tp > 1 and layout.shares_devices:
        return False  # the ranks of a replica need GPUs of their own
    sizes = gpu_sizes(request.nodes)
    if not sizes:
        return True
    found = memory_estimates(request.topology, request.workload, request.written_at_once)
    estimates = {one.agent: one for one in found}
    for contents in layout.counts:
        groups = [contents] if layout.is_colocated else [(agent,) for agent in contents]
        actors = [shard_memory(model, [estimates[name] for name in names], request.workload, tp) for names in groups]
        if sum(actor.total_bytes for actor in actors) > sizes[0]:
            return False
    return True


def plan_of(request: PlanRequest, layout: Layout, places: Sequence[tuple[Slot, ...]]) -> Plan:
    """Return the plan of a layout on these devices, in this order: a node is filled before the next one is used, and
    each has its part of every kind of device, so that chains stay on a node where they can."""
    devices = sorted(
        ((number + 0.5) / count, order, contents)
        for order, (contents, count) in enumerate(layout.counts.items())
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
    made = replace(request, replicas=replicas, placement=strategy)
    why = "the most questions per second, as predicted"
    return Plan(
        request=made, strategy=strategy, why=why, share=_share(made, layout.num_actors * request.tp, most), slots=slots
    )


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


def _places(request: PlanRequest) -> list[tuple[Slot, ...]]:
    """Return the devices of a cluster, node by node; with `tp` above 1, groups of that many GPUs of one node."""
    has_gpus = any(node.whole_gpus for node in request.nodes)
    if not has_gpus:
        return [(Slot(number, None),) * request.tp for number, node in enumerate(request.nodes) if node.num_cpus >= 1]
    return [
        tuple(Slot(number, gpu) for gpu in range(first, first + request.tp))
        for number, node in enumerate(request.nodes)
        for first in range(0, node.whole_gpus - request.tp + 1, request.tp)
    ]
