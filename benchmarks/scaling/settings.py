"""The settings of the runtime's benchmark. Imports nothing heavy."""

from dataclasses import dataclass

from latentmas_ray.bench.setting_checks import check_plot_file
from latentmas_ray.errors import ConfigError

CHAIN_AGENTS = 4  # of the chain whose hand-overs are measured: two think latently, two write
# All actors of hand-overs together, from a laptop's worth to eight nodes of eight GPUs; what fits into memory is taken.
DEFAULT_ACTORS = (4, 16, 64)


@dataclass(frozen=True, kw_only=True)
class ScalingBenchSettings:
    """Timer-driven turns on real actors. Raises ConfigError for impossible values."""

    replicas: tuple[int, ...] = (1, 2, 4, 8)  # of every agent, one number after another
    agents: int = 1  # of the chain whose throughput is measured
    turn_seconds: float = 1.0  # that every turn takes, by a timer
    batches: int = 5  # that every replica gets
    repeats: int = 3
    actors: tuple[int, ...] | None = None  # that hand over; None: those of `DEFAULT_ACTORS` that fit
    throughput: bool = True
    hand_overs: bool = True
    address: str | None = None
    plot: str | None = None

    def __post_init__(self) -> None:
        for name in ("agents", "batches", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "it must be at least 1")
        if not 0 < self.turn_seconds <= 60:
            raise ConfigError("turn_seconds", self.turn_seconds, "it must be above 0 and at most 60")
        if 1 not in self.replicas or min(self.replicas) < 1:
            given = ",".join(map(str, self.replicas))
            expected = (
                "it must be whole numbers of at least 1, and 1 among them: it is what the others are compared with"
            )
            raise ConfigError("replicas", given, expected)
        if self.actors is not None and not all(count > 0 and count % CHAIN_AGENTS == 0 for count in self.actors):
            given = ",".join(map(str, self.actors))
            raise ConfigError(
                "actors", given, f"they make chains of {CHAIN_AGENTS} agents, so it must be multiples of {CHAIN_AGENTS}"
            )
        if not (self.throughput or self.hand_overs):
            raise ConfigError("hand_overs", "no", "without throughput, too, nothing is left to measure")
        if self.address == "":
            raise ConfigError("address", self.address, "it must be HOST:PORT, ray://HOST:PORT or auto")
        if self.plot is not None:
            check_plot_file(self.plot)
