"""The settings of `latentmas simulate`. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import TypeVar

from latentmas_ray.bench.plot_file import check_plot_file
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.link_speeds import LinkSpeeds
from latentmas_ray.units import parse_bytes

PLACEMENTS = ("auto", "pack", "spread", "colocate")
BALANCED = "balanced"  # replicas in proportion to the seconds of the agents' turns
MAX_GPUS = 8192

_T = TypeVar("_T")


def _flag(default: _T, metavar: str, text: str) -> _T:
    """A field that is a flag, with what `--help` says of it."""
    value: _T = field(default=default, metadata={"metavar": metavar, "help": text})
    return value


@dataclass(frozen=True, kw_only=True)
class SimulationSettings:
    """The clusters, the work and the timers. Raises ConfigError for impossible values."""

    nodes: tuple[int, ...] = _flag((1, 4, 16, 64, 128), "N,N,…", "machines of the cluster, one run for each number")
    gpus_per_node: int = _flag(8, "N", "of every machine")
    topology: tuple[str, ...] = _flag(
        ("sequential", "hierarchical", "wide"), "NAME,…", "built-in ones, YAML files, or wide: 16 experts in two layers"
    )
    questions: int = _flag(100_000, "N", "of every run")
    batch_size: int = _flag(8, "B", "questions of one turn")
    replicas: str = _flag(
        BALANCED, f"N|{BALANCED}", "of every agent, or as many as there are GPUs, in proportion to its seconds"
    )
    placement: str = _flag("auto", "|".join(PLACEMENTS), "of the agents")
    think_seconds: float = _flag(0.3, "S", "mean of a turn that thinks")
    write_seconds: float = _flag(20.0, "S", "mean of a turn that writes")
    spread: float = _flag(0.2, "SHARE", "turns take their mean, more or less by up to this share of it")
    seed: int = _flag(42, "S", "of the spread")
    model: str = _flag("qwen3-14b", "NAME|FOLDER", "whose memory is handed over")
    prompt_tokens: int = _flag(1000, "N", "of every agent and question")
    latent_steps: int = _flag(40, "N", "of each latent agent")
    max_new_tokens: int = _flag(256, "N", "of every text")
    nvlink: str = _flag("300GB/s", "SPEED|none", "GPUs of one node")
    network: str = _flag("100Gbit/s", "SPEED", "of each node, which its GPUs share")
    store: str = _flag("100GB", "SIZE", "memory in flight that each node holds")
    latency: float = _flag(0.005, "S", "from the end of a turn until readers and driver know")
    driver: str = _flag("charged", "charged|free", "whether virtual time passes with the driver's processor time")
    runtime_seconds: float = _flag(0.0008, "S", "processor time of the driver for the calls to Ray, per turn")
    plot: str | None = _flag(None, "FILE.png", "draw the figures over nodes")

    def __post_init__(self) -> None:
        for name in ("gpus_per_node", "questions", "batch_size", "prompt_tokens", "latent_steps", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "it must be at least 1")
        largest = MAX_GPUS // self.gpus_per_node
        if not self.nodes or not 1 <= min(self.nodes) <= max(self.nodes) <= largest:
            given = ",".join(map(str, self.nodes))
            expected = f"it must be whole numbers from 1 to {largest}, with {self.gpus_per_node} GPUs each"
            raise ConfigError("nodes", given, expected)
        for name in ("think_seconds", "write_seconds"):
            if not 0 < getattr(self, name) <= 3600:
                raise ConfigError(name, getattr(self, name), "it must be above 0 and at most 3600")
        for name in ("latency", "runtime_seconds"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "it must be between 0 and 1 second")
        if not 0 <= self.spread < 1:
            raise ConfigError("spread", self.spread, "it must be at least 0 and below 1")
        for name, choices in (("placement", PLACEMENTS), ("driver", ("charged", "free"))):
            if getattr(self, name) not in choices:
                raise ConfigError(name, getattr(self, name), f"it must be {', '.join(choices[:-1])} or {choices[-1]}")
        self._check_replicas()
        self.speeds  # noqa: B018  raises for what is no speed
        self.store_bytes  # noqa: B018
        if self.plot is not None:
            check_plot_file(self.plot)

    def _check_replicas(self) -> None:
        if self.replicas == BALANCED:
            return
        if not (self.replicas.isascii() and self.replicas.isdigit() and 1 <= len(self.replicas) <= 5):
            raise ConfigError("replicas", self.replicas, f"it must be a whole number of at least 1, or {BALANCED}")
        if not 1 <= int(self.replicas) <= MAX_GPUS:
            raise ConfigError("replicas", self.replicas, f"it must be between 1 and {MAX_GPUS}")

    @property
    def speeds(self) -> LinkSpeeds:
        """The links. Raises ConfigError."""
        return LinkSpeeds.parse({"nvlink": self.nvlink, "network": self.network})

    @property
    def store_bytes(self) -> int:
        """Bytes of memory in flight on each node. Raises ConfigError."""
        try:
            size = parse_bytes(self.store)
        except ValueError as problem:
            raise ConfigError("store", self.store, str(problem)) from None
        if size < 1:
            raise ConfigError("store", self.store, "it must be a size such as 100GB")
        return size
