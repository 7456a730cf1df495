"""The figures of simulated runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latentmas_ray.simulation.settings import SimulationSettings


@dataclass(frozen=True, kw_only=True)
class SimulatedRun:
    """One run on one cluster. Seconds are virtual, but for those of processor time."""

    topology: str
    nodes: int
    gpus: int
    placement: str
    replicas: Mapping[str, int]
    questions: int
    turns: int
    seconds: float  # from the first admission to the last answer
    gpu_use: float  # share of the time of all GPUs that turns compute
    use_by_agent: Mapping[str, float]  # share of the time of the agent's own replicas
    moved_bytes: Mapping[str, int]  # by link
    network_use: float  # share of the time in which the busiest node's port sends, or receives
    driver_seconds: float  # processor time of the driver's own work
    runtime_seconds: float  # processor time of calls to Ray, as assumed
    simulated_in: float  # processor seconds of the whole simulation
    drivers: int = 1  # their processor seconds are added up

    @property
    def questions_per_second(self) -> float:
        return self.questions / self.seconds

    @property
    def network_bytes(self) -> int:
        return self.moved_bytes.get("network", 0)

    @property
    def driver_share(self) -> float:
        """A driver's processor time, calls to Ray included, as a share of the run's time: 1 is one core. Of several,
        which have equal parts, the mean."""
        return (self.driver_seconds + self.runtime_seconds) / self.seconds / self.drivers

    @property
    def turns_per_second(self) -> float:
        """Turns that all drivers have to handle each second."""
        return self.turns / self.seconds

    @property
    def own_capacity(self) -> float:
        """Turns a second that the own work of all drivers allows."""
        return self.turns / self.driver_seconds * self.drivers

    @property
    def capacity(self) -> float:
        """Turns a second that the drivers' threads allow, calls to Ray included."""
        return self.turns / (self.driver_seconds + self.runtime_seconds) * self.drivers

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        shares = ("questions_per_second", "network_bytes", "driver_share", "turns_per_second", "own_capacity")
        return asdict(self) | {name: getattr(self, name) for name in (*shares, "capacity")}


def add_up(parts: Sequence[SimulatedRun]) -> SimulatedRun:
    """Return the figures of a run that was divided among drivers: of the parts, which ran at the same time on nodes of
    their own."""
    if len(parts) == 1:
        return parts[0]
    seconds, gpus = max(one.seconds for one in parts), sum(one.gpus for one in parts)
    links = dict.fromkeys(link for one in parts for link in one.moved_bytes)
    return SimulatedRun(
        topology=parts[0].topology,
        nodes=sum(one.nodes for one in parts),
        gpus=gpus,
        placement=parts[0].placement,
        replicas={agent: sum(one.replicas[agent] for one in parts) for agent in parts[0].replicas},
        questions=sum(one.questions for one in parts),
        turns=sum(one.turns for one in parts),
        seconds=seconds,
        gpu_use=sum(one.gpu_use * one.gpus * one.seconds for one in parts) / gpus / seconds,
        use_by_agent={
            agent: sum(one.use_by_agent[agent] * one.seconds for one in parts) / len(parts) / seconds
            for agent in parts[0].use_by_agent
        },
        moved_bytes={link: sum(one.moved_bytes.get(link, 0) for one in parts) for link in links},
        network_use=max(one.network_use * one.seconds for one in parts) / seconds,
        driver_seconds=sum(one.driver_seconds for one in parts),
        runtime_seconds=sum(one.runtime_seconds for one in parts),
        simulated_in=sum(one.simulated_in for one in parts),
        drivers=len(parts),
    )


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """The result of one command."""

    settings: SimulationSettings
    machine: str  # that simulated it: the driver's processor time is its
    runs: tuple[SimulatedRun, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            "settings": asdict(self.settings),
            "machine": self.machine,
            "runs": [one.to_json() for one in self.runs],
        }
