"""`python -m benchmarks layouts`: what the search for a layout predicts, and what the scheduler of a run reaches with
it, on timers and in virtual time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from latentmas_ray.placement import (
    HARDWARE,
    LinkSpeeds,
    Plan,
    PlanRequest,
    Workload,
    known_dims,
    make_plan,
    nodes_alike,
)
from latentmas_ray.placement.prediction.layout_plans import devices_of, plan_of
from latentmas_ray.placement.prediction.layout_search import LayoutSearch, PredictedPlan
from latentmas_ray.placement.prediction.layouts import Contents, Layout
from latentmas_ray.placement.prediction.run_layout import describe_contents
from latentmas_ray.placement.prediction.turn_costs import PhaseCost, TurnCost
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.simulation.run import drive, make_questions
from latentmas_ray.simulation.runtime import SimulatedRuntime
from latentmas_ray.simulation.times import DriverCost, TurnTimers
from latentmas_ray.topology import Agent, Topology

PUBLISHED = {"planner": 0.3, "critic": 0.3, "refiner": 0.3, "judger": 20.0}  # seconds: to think, and to answer
_STORE_BYTES = 10**11  # for segments in flight: none waits for room
_WARM_UP = 6  # questions for each device, until every queue is as full as it gets


def chain(seconds: Mapping[str, float]) -> Topology:
    """Return a chain of agents, each of which reads the one before it; the last one writes."""
    names = list(seconds)
    return Topology(
        name="timers",
        agents=tuple(
            Agent(
                name=name,
                prompt="{{ context }}{{ question }}" if index else "{{ question }}",
                thinks="text" if index == len(names) - 1 else "latent",
                reads=(names[index - 1],) if index else (),
            )
            for index, name in enumerate(names)
        ),
    )


def costs_of(seconds: Mapping[str, float]) -> dict[str, TurnCost]:
    """Return the costs of turns that take these seconds, of one question each."""
    names, none = list(seconds), PhaseCost()
    return {
        name: TurnCost(agent=name, prefill=none, think=none, decode=PhaseCost(seconds=seconds[name]))
        if name == names[-1]
        else TurnCost(agent=name, prefill=none, think=PhaseCost(seconds=seconds[name]), decode=none)
        for name in names
    }


def search_of(seconds: Mapping[str, float], num_gpus: int, *, apart: bool) -> LayoutSearch:
    """Return the search for one node with so many GPUs. `apart`: the last agent needs an actor of its own."""
    names = tuple(seconds)
    model = known_dims("tiny")
    request = PlanRequest(
        agents=names,
        replicas=dict.fromkeys(names, 1),
        nodes=nodes_alike(1, num_gpus=num_gpus, num_cpus=8 * num_gpus),
        topology=chain(seconds),
        model=model,
        workload=Workload(batch_size=1, prompt_tokens=8, latent_steps=4, max_new_tokens=1),
        apart=frozenset(names[-1:]) if apart else frozenset(),
    )
    return LayoutSearch(
        request=request, hardware=HARDWARE["a100-80gb"], speeds=LinkSpeeds(), measured=costs_of(seconds)
    )


def reached(plan: Plan, seconds: Mapping[str, float], num_questions: int) -> float:
    """Return the questions per second of a run with timers on this plan, after its warm-up."""
    num_devices = len(plan.actors_on)
    begin, end = (_run_seconds(plan, seconds, number) for number in (_WARM_UP * num_devices, num_questions))
    return (num_questions - _WARM_UP * num_devices) / (end - begin)


def _run_seconds(plan: Plan, seconds: Mapping[str, float], num_questions: int) -> float:
    """Return the virtual seconds of a run over so many questions, each a batch of its own."""
    topology = plan.request.topology
    assert topology is not None
    runtime = SimulatedRuntime(
        plan,
        TurnTimers(by_agent=seconds),
        DriverCost(is_charged=False),
        speeds=LinkSpeeds(),
        memory_limit_bytes=_STORE_BYTES,
    )
    settings = DriverSettings(
        latent_steps=4,
        replicas=plan.request.num_pipelines,
        is_colocated=plan.is_colocated,
        max_attempts=1,
    )
    batches = plan_batches(make_questions(num_questions), 1)
    drive(runtime, RunRequest(topology=topology, settings=settings, batches=batches))
    return runtime.now


@dataclass(frozen=True, kw_only=True)
class LayoutFigures:
    """One layout: questions per second, predicted and reached."""

    name: str
    contents: str
    predicted: float
    reached: float

    @property
    def difference(self) -> float:
        """Predicted over reached, less 1."""
        return self.predicted / self.reached - 1


def every_layout(agents: Sequence[str], num_devices: int) -> Iterator[dict[Contents, int]]:
    """Yield all layouts that use all devices, with any agents on any of them."""
    kinds = [chosen for count in range(1, len(agents) + 1) for chosen in combinations(agents, count)]
    for bars in combinations(range(num_devices + len(kinds) - 1), len(kinds) - 1):
        ends = (-1, *bars, num_devices + len(kinds) - 1)
        counts = [ends[number + 1] - ends[number] - 1 for number in range(len(kinds))]
        layout = {kind: count for kind, count in zip(kinds, counts, strict=True) if count}
        if {agent for contents in layout for agent in contents} == set(agents):
            yield layout


def best_of_all(search: LayoutSearch, seconds: Mapping[str, float], num_questions: int) -> LayoutFigures:
    """Return the layout that reaches most of all that there are; each is simulated."""
    request = search.request
    places = devices_of(request)
    best: tuple[float, Plan] | None = None
    for counts in every_layout(request.agents, len(places)):
        plan = plan_of(request, Layout(counts), places)
        rate = reached(plan, seconds, num_questions)
        if best is None or rate > best[0]:
            best = rate, plan
    assert best is not None
    rate, plan = best
    predicted = search.predicted(plan).prediction.questions_per_second
    return LayoutFigures(name="best of all", contents=describe_contents(plan), predicted=predicted, reached=rate)


def figures_of(name: str, found: PredictedPlan, seconds: Mapping[str, float], num_questions: int) -> LayoutFigures:
    """Return what a plan reaches, next to its prediction."""
    return LayoutFigures(
        name=name,
        contents=describe_contents(found.plan),
        predicted=found.prediction.questions_per_second,
        reached=reached(found.plan, seconds, num_questions),
    )


def chosen(search: LayoutSearch) -> PredictedPlan:
    """Return the layout that a run has with `replicas auto`."""
    run = search.run_of(search.find())
    assert run is not None
    one, plan = run
    return search.predicted(plan) if one.plan.slots != plan.slots else one


def published_figures(num_gpus: int, num_questions: int) -> list[LayoutFigures]:
    """Return the figures at published proportions: one actor for each agent, and what `auto` chooses."""
    found = []
    for apart in (False, True):
        search = search_of(PUBLISHED, num_gpus, apart=apart)
        today = search.predicted(make_plan(search.request))
        engine = "an engine of its own for the answer" if apart else "one engine"
        found.append(figures_of(f"one actor each, {engine}", today, PUBLISHED, num_questions))
        found.append(figures_of(f"auto, {engine}", chosen(search), PUBLISHED, num_questions))
    return found


def exhaustive_figures(num_gpus: int, num_questions: int) -> list[LayoutFigures]:
    """Return what `auto` chooses for two agents that think and one that answers in an engine of its own, and the best
    of all layouts."""
    seconds = {"planner": 0.45, "critic": 0.45, "judger": 20.0}
    search = search_of(seconds, num_gpus, apart=True)
    auto = figures_of("auto, two thinkers", chosen(search), seconds, num_questions)
    return [auto, best_of_all(search, seconds, num_questions)]


def random_settings(count: int, seed: int = 20) -> Iterator[tuple[dict[str, float], int, bool]]:
    """Yield seconds of agents, every other one short, a number of GPUs, and whether the last agent is apart."""
    random = Random(seed)
    for _ in range(count):
        names = [f"agent-{number}" for number in range(1, random.randint(2, 4) + 1)]
        ranges = [random.choice([(0.1, 1.0), (1.0, 20.0)]) for _ in names]
        seconds = {name: round(random.uniform(*one), 2) for name, one in zip(names, ranges, strict=True)}
        yield seconds, random.randint(2, 8), random.random() < 0.75


def random_figures(count: int, questions_per_gpu: int) -> Iterator[LayoutFigures]:
    """Yield the figures of the layouts that `auto` chooses in random settings."""
    for seconds, num_gpus, apart in random_settings(count):
        name = f"{num_gpus} GPUs; " + ", ".join(f"{one:g} s" for one in seconds.values())
        found = chosen(search_of(seconds, num_gpus, apart=apart))
        yield figures_of(name, found, seconds, questions_per_gpu * num_gpus)


def table(figures: Sequence[LayoutFigures]) -> str:
    """Return the figures as a table in Markdown."""
    lines = ["| | layout | predicted questions/s | reached | difference |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {one.name} | {one.contents} | {one.predicted:.3f} | {one.reached:.3f} | {one.difference:+.1%} |"
        for one in figures
    ]
    return "\n".join(lines)
