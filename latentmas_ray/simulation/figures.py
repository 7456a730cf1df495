"""The figures of simulated runs."""

from collections.abc import Mapping
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

    @property
    def questions_per_second(self) -> float:
        return self.questions / self.seconds

    @property
    def network_bytes(self) -> int:
        return self.moved_bytes.get("network", 0)

    @property
    def driver_share(self) -> float:
        """The driver's processor time, calls to Ray included, as a share of the run's time: 1 is one core."""
        return (self.driver_seconds + self.runtime_seconds) / self.seconds

    @property
    def turns_per_second(self) -> float:
        """Turns that the driver has to handle each second."""
        return self.turns / self.seconds

    @property
    def own_capacity(self) -> float:
        """Turns a second that the driver's own work allows."""
        return self.turns / self.driver_seconds

    @property
    def capacity(self) -> float:
        """Turns a second that the driver's thread allows, calls to Ray included."""
        return self.turns / (self.driver_seconds + self.runtime_seconds)

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        shares = ("questions_per_second", "network_bytes", "driver_share", "turns_per_second", "own_capacity")
        return asdict(self) | {name: getattr(self, name) for name in (*shares, "capacity")}


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
