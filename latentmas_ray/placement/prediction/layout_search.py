"""Searches the layout over a whole cluster that answers the most questions per second, as predicted."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from latentmas_ray.config import MAX_REPLICAS, PlacementName
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.assignment import Slot
from latentmas_ray.placement.gpu_memory import rows_on, written_at_once
from latentmas_ray.placement.link_speeds import LinkSpeeds
from latentmas_ray.placement.plan import Plan, PlanRequest
from latentmas_ray.placement.prediction.hardware import Hardware
from latentmas_ray.placement.prediction.layout_plans import devices_of, fits, plan_of
from latentmas_ray.placement.prediction.layouts import Layout, contents_of, layouts_for, rate_of
from latentmas_ray.placement.prediction.throughput import Prediction, predict
from latentmas_ray.placement.prediction.turn_costs import LIMITS, Efficiency, StepModel, TurnCost, mean_cost, turn_costs
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
    costs: Mapping[str, TurnCost]  # of its turns, by agent; where devices differ, the means over an agent's replicas


@dataclass(frozen=True, kw_only=True)
class LayoutSearch:
    """What to search: `request` has the agents, nodes, topology, model, workload and placement; its replicas are not
    read. `placement` pack excludes colocated layouts, and colocate all others.

    `expected_tokens`: of a text; None: as many as the workload allows. `measured`: the costs of turns, in place of
    those that follow from the model and the hardware; then the request needs no model. `divides_models`: a model that
    needs more than one GPU gets the fewest over which it fits, if `tp` of the request is 1.
    """

    request: PlanRequest
    hardware: Hardware
    speeds: LinkSpeeds
    expected_tokens: int | None = None
    efficiency: Efficiency | None = None  # None: what is usual, or all of figures that were measured
    measured: Mapping[str, TurnCost] | None = None
    divides_models: bool = True
    _known: dict[tuple[int, int], Mapping[str, TurnCost]] = field(default_factory=dict, init=False, repr=False)

    def find(self) -> list[PredictedPlan]:
        """Return the best plan first, and then all others by questions per second.

        Raises ConfigError if no layout fits, for GPUs of unknown size, and for the placement spread.
        """
        if self.request.placement == "spread":
            raise ConfigError("placement", "spread", "with replicas auto it must be auto, pack or colocate")
        if self.measured is None and any(node.whole_gpus and node.gpu_bytes is None for node in self.request.nodes):
            raise ConfigError("gpu_memory", "nothing", "a search needs the size of the GPUs: give it, or hardware")
        for tp in _TP if self.request.tp == 1 and self.divides_models else (self.request.tp,):
            if found := self._find(replace(self.request, tp=tp)):
                return found
        alone = replace(self.request, replicas=dict.fromkeys(self.request.agents, 1))
        return [self.predicted(make_plan(alone))]  # which says what is missing

    def predicted(self, plan: Plan) -> PredictedPlan:
        """Return the prediction for a plan that a run has without a search."""
        contents = {} if plan.is_colocated else contents_of(plan)
        costs = self.costs_on(plan.request, Layout(contents, is_colocated=plan.is_colocated))
        return PredictedPlan(layout=None, plan=plan, prediction=predict(plan, costs, self.speeds), costs=costs)

    def run_of(self, found: Sequence[PredictedPlan]) -> tuple[PredictedPlan, Plan] | None:
        """Return the first of these plans that flags can give to a run, and the run's own plan with its placement, tp
        and replicas. None if there is no other.

        Agents that share devices are joined by `+` in `replicas`. Without any, a run has actors of equal size on nodes
        that it chooses, so on nodes without GPUs it cannot give each agent nodes of its own. Where it would put them on
        other nodes than all of these plans, as a chain that is too large for one node, its own plan is predicted.
        """
        elsewhere: Plan | None = None
        for one in found:
            request = one.plan.request
            if request.num_pipelines > MAX_REPLICAS:
                continue
            if one.layout is None or one.layout.shares_devices:
                return one, one.plan
            wanted: PlacementName = "colocate" if one.plan.is_colocated else "auto"
            own = try_plan(replace(request, placement=wanted))
            if isinstance(own, Plan) and contents_of(own) == contents_of(one.plan):
                if own.strategy == one.plan.strategy:
                    return one, replace(own, why=one.plan.why)
                elsewhere = elsewhere or replace(own, why=one.plan.why)
        return None if elsewhere is None else (self.predicted(elsewhere), elsewhere)

    @property
    def device_hardware(self) -> Hardware:
        """The figures of one device: a GPU, or the cores of the smallest node that has some."""
        cores = min((node.num_cpus for node in self.request.nodes if node.num_cpus >= 1), default=1.0)
        return self.hardware.of_cores(cores)

    @property
    def reached(self) -> Efficiency:
        """The part of the hardware's figures that is assumed to be reached."""
        return self.efficiency or (LIMITS if self.hardware.is_measured else Efficiency())

    @property
    def text_tokens(self) -> int:
        """The length that a text is expected to have: at most its limit."""
        most = self.request.workload.max_new_tokens
        return min(self.expected_tokens or most, most)

    def costs(self, request: PlanRequest, rows: Mapping[str, int]) -> Mapping[str, TurnCost]:
        """Return the costs of the turns with the tp of `request`, of agents that write `rows` questions at the same
        time; the others compute whole batches."""
        if self.measured is not None:
            return self.measured
        assert request.model is not None, "a search needs a model, or measured costs"
        assert request.topology is not None, "a search needs a topology"
        expected = replace(request.workload, max_new_tokens=self.text_tokens)
        found: dict[str, TurnCost] = {}
        for agent in request.agents:  # once for each model
            if agent not in found:
                device = StepModel(
                    model=request.dims_of(agent),
                    hardware=self.device_hardware,
                    tp=request.tp,
                    efficiency=self.reached,
                    links=self.speeds,
                )
                costs = turn_costs(request.topology, expected, rows, device, are_alike=request.have_one_model)
                found |= {name: cost for name, cost in costs.items() if request.have_one_model(agent, name)}
        return {agent: found[agent] for agent in request.agents}

    def costs_on(self, request: PlanRequest, layout: Layout) -> Mapping[str, TurnCost]:
        """Return the costs of the turns in a layout: the more actors share a GPU, the fewer questions an engine has
        room for there."""
        if layout.is_colocated:
            return self.costs(request, {})  # an actor with several agents computes whole batches
        if not request.apart:
            return self._costs_by_size(request, 1)
        by_size = {size: self._costs_by_size(request, size) for size in {len(contents) for contents in layout.counts}}
        if len(by_size) == 1:
            return next(iter(by_size.values()))
        return {
            agent: mean_cost(
                [
                    (by_size[len(contents)][agent], count)
                    for contents, count in layout.counts.items()
                    if agent in contents
                ]
            )
            for agent in request.agents
        }

    def _costs_by_size(self, request: PlanRequest, num_actors: int) -> Mapping[str, TurnCost]:
        """Return the costs of the turns on devices with so many actors; of all layouts they are computed once."""
        key = request.tp, num_actors
        if key not in self._known:
            rows = {agent: max(1, count) for agent, count in rows_on(request, num_actors).items()}
            self._known[key] = self.costs(request, rows)
        return self._known[key]

    def _find(self, request: PlanRequest) -> list[PredictedPlan]:
        """Return the plans with the tp of `request`; none if no layout fits."""
        if not (places := devices_of(request)):
            return []
        if len(places) > _MOST_DEVICES:
            raise ConfigError("nodes", len(request.nodes), f"a search takes at most {_MOST_DEVICES} devices")
        seconds = {agent: cost.seconds for agent, cost in self.costs(request, written_at_once(request)).items()}
        # First without hand-overs; then again with the seconds that those of the best layout take.
        first = self._predicted(request, seconds, places, {})
        apart = next((one for one in first if not one.plan.is_colocated), None)
        if apart is None:
            return first
        rate, used = apart.prediction.questions_per_second, apart.prediction.devices_used
        waited = {agent: used[agent] / rate / request.tp - apart.costs[agent].seconds for agent in request.agents}
        second = self._predicted(request, seconds, places, waited)
        return in_order([*first, *(one for one in second if one.layout not in [other.layout for other in first])])

    def _predicted(
        self,
        request: PlanRequest,
        seconds: Mapping[str, float],
        places: Sequence[tuple[Slot, ...]],
        waited: Mapping[str, float],
    ) -> list[PredictedPlan]:
        """Return the predictions of the most promising layouts, for agents that need these `seconds` of a device, and
        wait for hand-overs for those of `waited`."""
        needed = {agent: own + waited.get(agent, 0.0) for agent, own in seconds.items()}
        ranked = []
        for layout in layouts_for(request, needed, len(places)):
            if not fits(request, layout):
                continue
            more = {} if layout.is_colocated else waited
            here = self.costs_on(request, layout)
            rate = rate_of(layout, {agent: cost.seconds + more.get(agent, 0.0) for agent, cost in here.items()})
            ranked.append((rate, layout, here))
        ranked.sort(key=lambda item: (-item[0], item[1].num_actors))
        most = _MOST_PREDICTED if len(places) <= _MANY_DEVICES else _MOST_PREDICTED // 4
        unlike = {_kinds(request, layout): layout for _, layout, _ in reversed(ranked)}
        chosen = [(layout, here) for _, layout, here in ranked if unlike[_kinds(request, layout)] is layout]
        found = []
        # Those without shared devices are among them in any case.
        for layout, here in chosen[:most] + [one for one in chosen[most:] if not one[0].shares_devices]:
            plan = plan_of(request, layout, places)
            prediction = predict(plan, here, self.speeds)
            found.append(PredictedPlan(layout=layout, plan=plan, prediction=prediction, costs=here))
        return in_order(found)


def _kinds(request: PlanRequest, layout: Layout) -> Hashable:
    """Return what two layouts have in common that differ only in which of the thinkers stand where."""
    assert request.topology is not None, "a search needs a topology"
    kinds = {agent.name: agent.thinks for agent in request.topology.agents}
    return layout.is_colocated, tuple(
        sorted((tuple(kinds[name] for name in contents), count) for contents, count in layout.counts.items())
    )


def in_order(found: Sequence[PredictedPlan]) -> list[PredictedPlan]:
    """Return the plans by questions per second; of those within 1 % of the most, that with the fewest actors first."""
    if not found:
        return []
    order = sorted(found, key=lambda one: (-one.prediction.questions_per_second, len(one.plan.slots)))
    most = order[0].prediction.questions_per_second
    nearly = [one for one in order if one.prediction.questions_per_second >= _NEARLY * most]
    best = min(nearly, key=lambda one: len(one.plan.slots))
    return [best, *(one for one in order if one is not best)]
