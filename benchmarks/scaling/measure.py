"""Measures the runtime itself: real actors and the real driver, with timers instead of models.

Throughput over replicas shows whether replicas wait for the driver; hand-overs show the delay from the end of one turn
to the start of the next, and the driver's processor time for it.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.scaling.figures import (
    HandOvers,
    Latencies,
    Spread,
    Throughput,
    driver_time,
    throughput_figures,
)
from benchmarks.scaling.settings import CHAIN_AGENTS, DEFAULT_ACTORS, ScalingBenchSettings
from benchmarks.scaling.timed_runtime import TimedRuntime
from benchmarks.scaling.timer_runner import LATENT_STEPS, TimerRunner
from latentmas_ray.actors import RayMetrics, RayRuntime
from latentmas_ray.actors.bench_actor import BenchCluster
from latentmas_ray.actors.replicas.request import ReplicaRequest
from latentmas_ray.bench.machine import Log, processor
from latentmas_ray.errors import ConfigError, RunError
from latentmas_ray.runs.results import Failure
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.protocol import Runtime, RuntimeInfo
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.shared import SharedScheduler
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Agent, Topology
from latentmas_ray.transport import pick_transport
from latentmas_ray.units import format_bytes

ACTOR_BYTES = 200_000_000  # an actor with torch and no model
_READER_SHARE = 0.9  # readers are faster by this factor in the load "busy", so that they are idle when memory arrives
_ALONE = 8  # factor for the batches of the load "alone": they are quick, and p99 needs a hundred
_LOADS = ("alone", "busy", "flood")


@dataclass(frozen=True, kw_only=True)
class ScalingBench:
    """The result of one run."""

    settings: ScalingBenchSettings
    machine: str
    load_average: float  # of the minute before the start: other work on this machine
    num_nodes: int
    throughput: tuple[Throughput, ...]
    hand_overs: tuple[HandOvers, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(settings: ScalingBenchSettings, progress: Log) -> ScalingBench:
    """Measure. Raises InputError kinds for settings that do not fit this machine or cluster, RunError kinds if an actor
    dies or a turn fails."""
    load_average = os.getloadavg()[0]
    with BenchCluster(settings.address) as cluster:
        nodes = cluster.nodes()
        sizes = fitting(settings, sum(node.memory_bytes for node in nodes))
        throughput = measure_throughput(settings, progress) if settings.throughput else ()
        hand_overs = [figures for num_actors in sizes for figures in measure_hand_overs(settings, num_actors, progress)]
    return ScalingBench(
        settings=settings,
        machine=processor(),
        load_average=load_average,
        num_nodes=len(nodes),
        throughput=throughput,
        hand_overs=tuple(hand_overs),
    )


def fitting(settings: ScalingBenchSettings, free_bytes: float) -> list[int]:
    """The numbers of actors that hand over. Raises ConfigError for given numbers that the nodes have no memory for."""
    room = int(free_bytes / ACTOR_BYTES)
    why = f"{format_bytes(free_bytes)} of memory hold that many of {format_bytes(ACTOR_BYTES)}"
    if settings.throughput and max(settings.replicas) * settings.agents > room:
        given = ",".join(map(str, settings.replicas))
        raise ConfigError("replicas", given, f"with all agents it must be at most {room} actors: {why}")
    if not settings.hand_overs:
        return []
    if settings.actors is not None and max(settings.actors) > room:
        raise ConfigError("actors", ",".join(map(str, settings.actors)), f"it must be at most {room}: {why}")
    sizes = sorted({count for count in settings.actors or DEFAULT_ACTORS if count <= room})
    if not sizes:
        raise ConfigError("actors", str(min(DEFAULT_ACTORS)), f"it must be at most {room}: {why}")
    return sizes


def measure_throughput(settings: ScalingBenchSettings, progress: Log) -> tuple[Throughput, ...]:
    """Questions per second for every number of replicas."""
    topology = chain(max(0, settings.agents - 1), 1)
    seconds: dict[int, list[float]] = {}
    for replicas in sorted(set(settings.replicas)):
        with started(topology, replicas) as (runtime, info):
            drive(runtime, info, topology, replicas, [0.0] * replicas)  # every actor has its first turn
            seconds[replicas] = [
                drive(
                    runtime,
                    info,
                    topology,
                    replicas,
                    [settings.turn_seconds] * replicas * settings.batches,
                    later=settings.turn_seconds,
                )
                for _ in range(settings.repeats)
            ]
        rates = ", ".join(f"{replicas * settings.batches / repeat:.2f}" for repeat in seconds[replicas])
        progress(f"replicas: {replicas}, questions/s: {rates}")
    return throughput_figures(
        seconds, agents=settings.agents, batches=settings.batches, turn_seconds=settings.turn_seconds
    )


def measure_hand_overs(settings: ScalingBenchSettings, num_actors: int, progress: Log) -> Iterator[HandOvers]:
    """Yield the figures of one chain over `num_actors` actors, under each load."""
    topology = chain(CHAIN_AGENTS // 2, CHAIN_AGENTS // 2)
    replicas = num_actors // CHAIN_AGENTS
    num_batches = settings.batches * settings.repeats
    with started(topology, replicas) as (runtime, info):
        timed = TimedRuntime(runtime)
        drive(timed, info, topology, replicas, [0.0] * replicas)
        for load in _LOADS:
            if load == "busy":
                # Each replica starts a little later than the previous one, so that turns do not all end at once.
                first = [settings.turn_seconds * (1 + number / replicas) for number in range(replicas)]
                seconds = first + [settings.turn_seconds] * (replicas * (num_batches - 1))
            else:
                seconds = [0.0] * num_batches * (_ALONE if load == "alone" else replicas)
            figures = _measure_load(timed, info, topology, replicas, seconds, load)
            progress(_progress_line(figures))
            yield figures


def _measure_load(
    timed: TimedRuntime, info: RuntimeInfo, topology: Topology, replicas: int, seconds: Sequence[float], load: str
) -> HandOvers:
    timed.reset()
    thread, process = time.thread_time(), time.process_time()
    wall = drive(
        timed,
        info,
        topology,
        replicas,
        seconds,
        later=_READER_SHARE * min(seconds),
        max_batches_in_flight=1 if load == "alone" else None,
    )
    driver = driver_time(
        timed.gaps,
        timed.call_seconds,
        num_turns=len(timed.turns),
        thread=time.thread_time() - thread,
        process=time.process_time() - process,
        seconds=wall,
    )
    agents = topology.agents
    found = Latencies.of(
        timed.turns,
        [agent.name for agent in agents],
        [agent.name for agent in agents if agent.thinks == "latent"],
    )
    has_latencies = load != "flood"
    return HandOvers(
        load=load,
        actors=replicas * len(agents),
        replicas=replicas,
        turns=len(timed.turns),
        seconds=wall,
        turns_per_second=len(timed.turns) / wall,
        memory=Spread.of(found.memory) if has_latencies else None,
        text=Spread.of([sum(way.values()) for way in found.text]) if has_latencies else None,
        text_way=found.text_way() if has_latencies else {},
        busy_readers=found.busy_share,
        driver=driver,
    )


def chain(num_latent: int, num_text: int) -> Topology:
    """Agents one after another, first those that think latently; each reads the one before it."""
    names = [f"agent-{number}" for number in range(1, num_latent + num_text + 1)]
    return Topology(
        name="timers",
        agents=tuple(
            Agent(
                name=name,
                prompt=f"{{{{ context }}}} {{{{ {'first' if index == 0 else 'later'} }}}}",
                thinks="latent" if index < num_latent else "text",
                reads=(names[index - 1],) if index else (),
            )
            for index, name in enumerate(names)
        ),
    )


@contextmanager
def started(topology: Topology, replicas: int) -> Iterator[tuple[Runtime, RuntimeInfo]]:
    """Yield a started runtime. Actors ask for fractions of cores, so there may be more actors than cores."""
    names = tuple(agent.name for agent in topology.agents)
    request = ReplicaRequest(
        agents=names, replicas=dict.fromkeys(names, replicas), make_runner=TimerRunner, uses_gpus=False
    )
    runtime = RayRuntime(request, partial(pick_transport, "auto", "none"))
    with closing(runtime):
        yield runtime, runtime.start()


def drive(
    runtime: Runtime,
    info: RuntimeInfo,
    topology: Topology,
    replicas: int,
    seconds: Sequence[float],
    *,
    later: float = 0.0,
    max_batches_in_flight: int | None = None,
) -> float:
    """Run one question per entry of `seconds`; return the seconds from the first admission to the last answer.

    An entry is the duration of a question's first turn; all later turns take `later` seconds.
    """
    questions = [
        Question(
            id=f"q{number}",
            question="",
            kind="text",
            gold=None,
            record={"first": first, "later": later},
        )
        for number, first in enumerate(seconds)
    ]
    settings = DriverSettings(
        latent_steps=LATENT_STEPS, replicas=replicas, max_batches_in_flight=max_batches_in_flight, max_attempts=1
    )
    scheduler = SharedScheduler(Scheduler(runtime, info=info, metrics=RayMetrics()))
    request = RunRequest(topology=topology, settings=settings, batches=plan_batches(questions, 1))
    begin = time.perf_counter()
    with closing(scheduler.run(request)) as results:
        for result in results:
            if isinstance(result, Failure):
                raise RunError(f"a turn of {result.agent} failed: {result.error}")
    return time.perf_counter() - begin


def _progress_line(figures: HandOvers) -> str:
    ways = {"memory": figures.memory, "text": figures.text}
    parts = [f"{name} {spread.p50 * 1000:.1f} ms" for name, spread in ways.items() if spread is not None]
    parts.append(f"driver {figures.driver.mean * 1000:.2f} ms per turn")
    return f"actors: {figures.actors}, {figures.load}, {figures.turns_per_second:.0f} turns/s: {', '.join(parts)}"
