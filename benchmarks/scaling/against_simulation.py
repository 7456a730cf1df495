"""Simulated runs against real ones: the same chain, replicas and timers, on Ray and in virtual time."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.scaling.measure import chain, drive, started
from benchmarks.scaling.timer_runner import LATENT_STEPS
from latentmas_ray.actors.bench_actor import BenchCluster
from latentmas_ray.placement import LinkSpeeds, PlanRequest, Workload, known_dims, make_plan, nodes_alike
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.simulation.run import drive as drive_simulated
from latentmas_ray.simulation.run import make_questions
from latentmas_ray.simulation.runtime import SimulatedRuntime
from latentmas_ray.simulation.settings import SimulationSettings
from latentmas_ray.simulation.times import DriverCost, TurnTimers
from latentmas_ray.topology import Topology

_FEW_BYTES = "tiny"  # as small as the segments of timers


@dataclass(frozen=True, kw_only=True)
class TimedCase:
    """A chain whose first agents think. The first turn takes `first` seconds, every later one `later`."""

    latent: int
    text: int
    replicas: int
    batches: int  # that every replica gets
    first: float
    later: float

    @property
    def topology(self) -> Topology:
        return chain(self.latent, self.text)

    @property
    def num_questions(self) -> int:
        return self.replicas * self.batches


# Chains whose first agent, or whose last, is the slow one; and turns so short that the driver and Ray count.
CASES = (
    TimedCase(latent=1, text=1, replicas=2, batches=8, first=0.1, later=0.5),
    TimedCase(latent=1, text=1, replicas=4, batches=8, first=0.5, later=0.2),
    TimedCase(latent=2, text=2, replicas=2, batches=8, first=0.3, later=0.3),
    TimedCase(latent=1, text=1, replicas=2, batches=40, first=0.05, later=0.05),
)


@dataclass(frozen=True, kw_only=True)
class TimedComparison:
    """Seconds of the same run on Ray and simulated."""

    case: TimedCase
    real: tuple[float, ...]
    simulated: float

    @property
    def real_seconds(self) -> float:
        """The median of the repeats."""
        return statistics.median(self.real)

    @property
    def difference(self) -> float:
        """Simulated over real, less 1."""
        return self.simulated / self.real_seconds - 1

    def describe(self) -> str:
        """Return one line."""
        case, num_runs = self.case, len(self.real)
        return (
            f"{case.latent} + {case.text} agents, {case.replicas} replicas, {case.batches} batches each, turns of "
            f"{case.first:g} and {case.later:g} s: {self.real_seconds:.2f} s (median of {num_runs}), "
            f"simulated {self.simulated:.2f} s, {self.difference:+.1%}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return asdict(self) | {"real_seconds": self.real_seconds, "difference": self.difference}


def compare(cases: Sequence[TimedCase], repeats: int, progress: Callable[[str], None]) -> list[TimedComparison]:
    """Run every case `repeats` times on Ray and once in virtual time. Raises RunError kinds if an actor dies."""
    found = []
    with BenchCluster(None):
        for case in cases:
            one = TimedComparison(case=case, real=_measure(case, repeats), simulated=simulate_case(case))
            progress(one.describe())
            found.append(one)
    return found


def _measure(case: TimedCase, repeats: int) -> tuple[float, ...]:
    seconds = [case.first] * case.num_questions
    with started(case.topology, case.replicas) as (runtime, info):
        drive(runtime, info, case.topology, case.replicas, [0.0] * case.replicas)  # every actor has its first turn
        return tuple(
            drive(runtime, info, case.topology, case.replicas, seconds, later=case.later) for _ in range(repeats)
        )


def simulate_case(case: TimedCase) -> float:
    """Return the virtual seconds of a case, with the defaults of `latentmas simulate` for latency and driver."""
    topology, defaults = case.topology, SimulationSettings()
    names = tuple(agent.name for agent in topology.agents)
    plan = make_plan(
        PlanRequest(
            agents=names,
            replicas=dict.fromkeys(names, case.replicas),
            nodes=nodes_alike(1, num_gpus=0, num_cpus=2),
            topology=topology,
            model=known_dims(_FEW_BYTES),
            workload=Workload(batch_size=1, prompt_tokens=8, latent_steps=LATENT_STEPS, max_new_tokens=1),
        )
    )
    runtime = SimulatedRuntime(
        plan,
        TurnTimers(
            by_agent=dict.fromkeys(names, case.later) | {names[0]: case.first},
            latency=defaults.latency,
        ),
        DriverCost(is_charged=True, runtime_per_turn=defaults.runtime_seconds),
        speeds=LinkSpeeds(),
        memory_limit_bytes=10**9,
    )
    questions = make_questions(case.num_questions, record={"first": case.first, "later": case.later})
    settings = DriverSettings(latent_steps=LATENT_STEPS, replicas=case.replicas, max_attempts=1)
    drive_simulated(runtime, RunRequest(topology=topology, settings=settings, batches=plan_batches(questions, 1)))
    return runtime.now
