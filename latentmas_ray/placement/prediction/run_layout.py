"""The layout that a search has chosen for a run: what is reported of it, and what the run then reaches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.plan import Plan, PlanRequest
from latentmas_ray.placement.prediction.layout_plans import format_devices
from latentmas_ray.placement.prediction.layout_search import LayoutSearch
from latentmas_ray.placement.prediction.layouts import contents_of
from latentmas_ray.placement.prediction.throughput import Prediction
from latentmas_ray.placement.suggestions import make_plan


@dataclass(frozen=True, kw_only=True)
class RunLayout:
    """A chosen layout. `fields` are the values of a configuration that give a run the same one."""

    contents: str  # how many devices have which agents
    fields: Mapping[str, Any]  # replicas, placement and tp
    replicas: Mapping[str, int]
    is_colocated: bool
    prediction: Prediction
    about: str  # the figures that were used
    latent_steps: int  # of an agent without its own, as predicted

    @property
    def line(self) -> str:
        """One line for the log."""
        rate = format_rate(self.prediction.questions_per_second)
        return f"layout {self.contents}: {rate} questions/s predicted with {self.about}, bound by " + (
            self.prediction.bound_by
        )


@dataclass(frozen=True, kw_only=True)
class ActorPlanner:
    """How the actors of a run are planned for the nodes that are there, at the start and after the loss of nodes.

    `make_plan` may choose the replicas, too; `layout` is then what it has chosen for the start.
    """

    make_plan: Callable[[PlanRequest], Plan] = make_plan
    layout: RunLayout | None = None
    keeps_layout: bool = False  # a search or a user has put the actors where they are: none moves when nodes join


AS_ASKED_FOR = ActorPlanner()


def choose_layout(search: LayoutSearch, about: str) -> tuple[Plan, RunLayout]:
    """Return the plan with the most predicted questions per second that flags can give to a run, too. `about`: the
    figures of the prediction. Raises ConfigError like `LayoutSearch.find`, and if there is none."""
    run = search.run_of(search.find())
    if run is None:
        raise ConfigError("replicas", "auto", "no layout that a run can have was found for these nodes: give numbers")
    one, plan = run
    return plan, RunLayout(
        contents=describe_contents(plan),
        fields=run_fields(plan),
        replicas=dict(plan.request.replicas),
        is_colocated=plan.is_colocated,
        prediction=one.prediction,
        about=about,
        latent_steps=search.request.workload.latent_steps,
    )


def describe_contents(plan: Plan) -> str:
    """Say how many devices have which agents."""
    kind = "GPU" if plan.share.num_gpus else "node"
    per_replica = f" × {plan.request.tp} {kind}s" if plan.request.tp > 1 else ""
    texts = [
        f"{count}× {'all in one actor' if plan.is_colocated else '+'.join(names)}{per_replica}"
        for names, count in contents_of(plan).items()
    ]
    return ", ".join(texts)


def run_fields(plan: Plan) -> dict[str, Any]:
    """Return the placement, tp and replicas with which a run has this plan."""
    request = plan.request
    counts = contents_of(plan)
    replicas: int | dict[str, int] = dict(request.replicas)
    if not plan.is_colocated and plan.divides_gpus:
        replicas = {"+".join(names): count for names, count in counts.items()}
    elif len(set(request.replicas.values())) == 1:
        replicas = request.num_pipelines
    return {"placement": plan.strategy, "replicas": replicas, "tp": request.tp}


def run_flags(plan: Plan) -> str:
    """Return the flags of a run for the placement, tp and replicas of this plan."""
    fields = run_fields(plan)
    replicas = fields["replicas"]
    if isinstance(replicas, dict):
        by_agents = {tuple(names.split("+")): count for names, count in replicas.items()}
        is_plain = all(len(names) == 1 for names in by_agents)
        replicas = format_devices({names: count for names, count in by_agents.items() if count > 1 or not is_plain})
    tp = f" --tp {plan.request.tp}" if plan.request.tp > 1 else ""
    return f"--placement {plan.strategy} --replicas {replicas}{tp}"


@dataclass(frozen=True, kw_only=True)
class LayoutSpeed:
    """Predicted and measured: questions per second, and how many devices each agent's turns keep busy."""

    layout: str
    bound_by: str
    predicted_questions_per_second: float
    questions_per_second: float
    predicted_devices: Mapping[str, float]
    devices: Mapping[str, float]

    def describe(self) -> str:
        """Return one line."""
        predicted, measured = self.predicted_questions_per_second, self.questions_per_second
        busy = ", ".join(
            f"{agent} {self.devices.get(agent, 0.0):.2f} ({devices:.2f})"
            for agent, devices in self.predicted_devices.items()
        )
        return (
            f"measured {format_rate(measured)} questions/s, {100 * measured / predicted:.0f} % of the predicted "
            f"{format_rate(predicted)}; devices busy (predicted): {busy}"
        )


class SpeedMeter:
    """Measures what a run reaches with a layout, from the answers after its warm-up."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._begin: float | None = None
        self._busy: dict[str, float] = {}
        self.num_answers = 0

    def begin(self, now: float) -> None:
        """The warm-up has ended. `now`: in seconds of any clock; later calls must use the same."""
        self._begin = now

    def add(self, busy_seconds: Mapping[str, float]) -> None:
        """Count a question that was answered after the warm-up, with the seconds of a replica that each agent used for
        it."""
        self.num_answers += 1
        for agent, seconds in busy_seconds.items():
            self._busy[agent] = self._busy.get(agent, 0.0) + seconds

    def measure(self, now: float) -> LayoutSpeed | None:
        """Return what was reached up to `now`; None if no question was answered after the warm-up."""
        if self._begin is None or not self.num_answers or now <= self._begin:
            return None
        passed, prediction = now - self._begin, self._layout.prediction
        tp = self._layout.fields["tp"]
        return LayoutSpeed(
            layout=self._layout.contents,
            bound_by=prediction.bound_by,
            predicted_questions_per_second=prediction.questions_per_second,
            questions_per_second=self.num_answers / passed,
            predicted_devices=dict(prediction.devices_used),
            devices={agent: seconds * tp / passed for agent, seconds in self._busy.items()},
        )


def format_rate(questions_per_second: float) -> str:
    """Return a rate with three digits."""
    return f"{questions_per_second:,.0f}" if questions_per_second >= 100 else f"{questions_per_second:.3g}"
