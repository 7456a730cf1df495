"""Simulates runs: the scheduler of a run on a runtime in virtual time."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from latentmas_ray.bench.machine import processor
from latentmas_ray.errors import RunError
from latentmas_ray.placement import Plan
from latentmas_ray.runs.folder import encode_row
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import RunEvent
from latentmas_ray.runs.timeline.recorder import row_of_event
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.shared import SharedScheduler
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.simulation.cluster import make_cluster, seconds_by_agent
from latentmas_ray.simulation.figures import SimulatedRun, Simulation, add_up
from latentmas_ray.simulation.runtime import SimulatedRuntime
from latentmas_ray.simulation.settings import SimulationSettings
from latentmas_ray.simulation.times import DriverCost, TurnTimers
from latentmas_ray.simulation.topologies import topology_of
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Agent, Topology
from latentmas_ray.topology.prompts import RenderedPrompt, RenderedPrompts


def simulate(settings: SimulationSettings, progress: Callable[[str], None]) -> Simulation:
    """Simulate one run for each topology and number of nodes. Raises ConfigError and TopologyError."""
    topologies = [topology_of(name) for name in settings.topology]
    plans = [
        (made, number, make_cluster(settings, made, number // settings.drivers_on(number)))
        for made in topologies
        for number in settings.nodes
    ]
    runs = []
    for topology, number, plan in plans:
        one = add_up([simulate_run(part, topology, plan) for part in _parts(settings, number)])
        progress(_progress_line(one))
        runs.append(one)
    return Simulation(settings=settings, machine=processor(), runs=tuple(runs))


def _parts(settings: SimulationSettings, num_nodes: int) -> Iterator[SimulationSettings]:
    """Yield the settings of each driver's part of a run on so many nodes."""
    questions, drivers = settings.questions_on(num_nodes), settings.drivers_on(num_nodes)
    for number in range(drivers):
        own = questions // drivers + (number < questions % drivers)
        yield replace(settings, questions=own, seed=settings.seed + number)


def simulate_run(settings: SimulationSettings, topology: Topology, plan: Plan) -> SimulatedRun:
    """Simulate one run on the cluster of `plan`."""
    driver = DriverCost(is_charged=settings.driver == "charged", runtime_per_turn=settings.runtime_seconds)
    times = TurnTimers(
        by_agent=seconds_by_agent(settings, topology),
        spread=settings.spread,
        seed=settings.seed,
        latency=settings.latency,
    )
    runtime = SimulatedRuntime(
        plan,
        times,
        driver,
        speeds=settings.speeds,
        memory_limit_bytes=settings.store_bytes * len(plan.nodes_used),
    )
    begin = time.thread_time()
    questions = make_questions(settings.questions)
    request = RunRequest(
        topology=topology,
        settings=DriverSettings(
            latent_steps=settings.latent_steps,
            replicas=max(plan.request.replicas.values()),
            max_attempts=1,
            is_colocated=plan.is_colocated,
            prompts=_SamePrompts(topology, questions[0]),
        ),
        batches=plan_batches(questions, settings.batch_size),
        observer=_RowMaker(),
    )
    drive(runtime, request)
    return _figures(settings, topology, plan, runtime, driver, time.thread_time() - begin)


class _SamePrompts(RenderedPrompts):
    """Prompts that are the same for all questions, whose content does not matter: rendered once for each agent."""

    def __init__(self, topology: Topology, question: Question) -> None:
        super().__init__()
        rendered = RenderedPrompts.of(topology, [question])
        self._by_agent = {agent.name: rendered.get(agent, question, "") for agent in topology.agents}

    def get(self, agent: Agent, question: Question, context: str) -> RenderedPrompt:
        """Return the prompt of `agent`, whatever the question."""
        return self._by_agent[agent.name]


class _RowMaker:
    """An observer that makes the rows of a run's timeline, as its driver does, and writes none."""

    def on_event(self, event: RunEvent) -> None:
        if (row := row_of_event(event, 0.0)) is not None:
            encode_row(row)


def drive(runtime: SimulatedRuntime, request: RunRequest) -> None:
    """Run all batches of a request to their end; make the rows of the journal, as the driver of a run does, and write
    none. Raises RunError if a question has no answer."""
    scheduler = SharedScheduler(Scheduler(runtime, info=runtime.start(), clock=runtime.clock))
    num_answers = 0
    with closing(scheduler.run(request)) as results:
        for result in results:
            if isinstance(result, Failure):
                raise RunError(f"question {result.id} failed at {result.agent}: {result.error}")
            assert isinstance(result, Answer)
            encode_row(result.to_row())
            num_answers += 1
    num_questions = sum(len(batch.questions) for batch in request.batches)
    if num_answers != num_questions:
        raise RunError(f"{num_answers} of {num_questions} questions have an answer")


def make_questions(number: int, record: Mapping[str, Any] | None = None) -> list[Question]:
    """Return questions whose content does not matter; all have the same record."""
    return [
        Question(id=f"q{index}", question=f"question {index}", kind="text", gold=None, record=record or {})
        for index in range(number)
    ]


def _figures(
    settings: SimulationSettings,
    topology: Topology,
    plan: Plan,
    runtime: SimulatedRuntime,
    driver: DriverCost,
    simulated_in: float,
) -> SimulatedRun:
    num_gpus = len(plan.request.nodes) * settings.gpus_per_node
    return SimulatedRun(
        topology=topology.name,
        nodes=len(plan.request.nodes),
        gpus=num_gpus,
        placement=plan.strategy,
        replicas=dict(plan.request.replicas),
        questions=settings.questions,
        turns=driver.num_turns,
        seconds=runtime.now,
        gpu_use=sum(runtime.busy_seconds.values()) / num_gpus / runtime.now,
        use_by_agent=_use_by_agent(runtime.busy_seconds, plan.request.replicas, runtime.now),
        moved_bytes={str(link): count for link, count in runtime.links.moved_bytes.items()},
        network_use=settings.speeds.seconds("network", runtime.links.busiest_port_bytes) / runtime.now,
        driver_seconds=driver.own,
        runtime_seconds=driver.num_turns * driver.runtime_per_turn,
        simulated_in=simulated_in,
    )


def _use_by_agent(busy_seconds: Mapping[str, float], replicas: Mapping[str, int], seconds: float) -> dict[str, float]:
    return {agent: busy / replicas[agent] / seconds for agent, busy in busy_seconds.items()}


def _progress_line(one: SimulatedRun) -> str:
    return (
        f"{one.topology}, {_nodes(one.nodes)}, {one.placement}: "
        f"{one.questions_per_second:.4g} questions/s, "
        f"GPUs {one.gpu_use:.0%}, {_drivers(one.drivers)} {one.driver_share:.1%} of a core, "
        f"simulated in {one.simulated_in:.1f} s"
    )


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _drivers(count: int) -> str:
    return "driver" if count == 1 else f"each of {count} drivers"
