"""The settings of `latentmas simulate`. Imports nothing heavy."""

from dataclasses import dataclass, field
from typing import Literal, TypeVar

from latentmas_ray.bench.setting_checks import check_plot_file
from latentmas_ray.config.parts import MAX_DRIVERS
from latentmas_ray.errors import ConfigError
from latentmas_ray.placement.link_speeds import LinkSpeeds
from latentmas_ray.placement.prediction.hardware import HARDWARE, Hardware, hardware_named_or_in
from latentmas_ray.units import parse_bytes

PLACEMENTS = ("auto", "pack", "spread", "colocate")
AUTO = "auto"  # the layout of a run with `replicas auto`
BALANCED = "balanced"  # replicas in proportion to the seconds of the agents' turns
MAX_GPUS = 8192
_MOST = 10_000_000  # of what is counted: so many questions fit into memory
# Of a published run of the method: a question's latent agents and its answering agent on one GPU, and the number of
# latent steps that such seconds are of.
_THINK_SECONDS, _WRITE_SECONDS, _LATENT_STEPS = 0.3, 20.0, 40
_GPUS = tuple(name for name, one in HARDWARE.items() if one.cores is None)
_OTHERS = LinkSpeeds()

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
    questions: int = _flag(100_000, "N", "on the largest cluster; smaller ones have as many for each node")
    batch_size: int = _flag(8, "B", "questions of one turn")
    replicas: str = _flag(
        AUTO,
        f"{AUTO}|{BALANCED}|N",
        "the layout that a run chooses itself, GPUs in proportion to each agent's seconds, or so many of every agent",
    )
    placement: str = _flag("auto", "|".join(PLACEMENTS), "of the agents")
    think_seconds: float | None = _flag(
        None, "S", f"mean of a turn that thinks (default: {_THINK_SECONDS:g}; with --hardware as predicted)"
    )
    write_seconds: float | None = _flag(
        None, "S", f"mean of a turn that writes (default: {_WRITE_SECONDS:g}; with --hardware as predicted)"
    )
    spread: float = _flag(0.2, "SHARE", "turns take their mean, more or less by up to this share of it")
    seed: int = _flag(42, "S", "of the spread")
    model: str = _flag("qwen3-14b", "NAME|FOLDER", "whose memory is handed over")
    prompt_tokens: int = _flag(1000, "N", "of every agent and question")
    latent_steps: int = _flag(_LATENT_STEPS, "N", "of each latent agent")
    max_new_tokens: int = _flag(256, "N", "of every text")
    hardware: str | None = _flag(
        None,
        "NAME|FILE.json",
        f"figures of the GPUs: their memory, links and turns; {', '.join(_GPUS)}, or those in a file of latentmas plan "
        "--measure --save",
    )
    nvlink: str | None = _flag(
        None, "SPEED|none", f"GPUs of one node (default: that of --hardware, else {(_OTHERS.nvlink or 0) / 1e9:g}GB/s)"
    )
    network: str | None = _flag(
        None,
        "SPEED",
        f"of each node, which its GPUs share (default: that of --hardware, else {_OTHERS.network * 8 / 1e9:g}Gbit/s)",
    )
    store: str = _flag("300GB", "SIZE", "memory in flight that each node holds")  # Ray: 30 % of 1 TB
    latency: float = _flag(0.005, "S", "from the end of a turn until readers and driver know")
    drivers: int = _flag(
        1,
        "N",
        "processes that drive the run, each with a part of nodes and questions; fewer where N does not divide the "
        "nodes or there are fewer questions",
    )
    driver: str = _flag("charged", "charged|free", "whether virtual time passes with the driver's processor time")
    runtime_seconds: float = _flag(0.0008, "S", "processor time of the driver for the calls to Ray, per turn")
    plot: str | None = _flag(None, "FILE.png", "draw the figures over nodes")

    def __post_init__(self) -> None:
        for name in ("gpus_per_node", "questions", "batch_size", "prompt_tokens", "latent_steps", "max_new_tokens"):
            least, most = 0 if name == "latent_steps" else 1, MAX_GPUS if name == "gpus_per_node" else _MOST
            if not least <= getattr(self, name) <= most:
                raise ConfigError(name, getattr(self, name), f"it must be between {least} and {most}")
        if not 1 <= self.drivers <= MAX_DRIVERS:
            raise ConfigError("drivers", self.drivers, f"it must be between 1 and {MAX_DRIVERS}")
        largest = MAX_GPUS // self.gpus_per_node
        if not self.nodes or not 1 <= min(self.nodes) <= max(self.nodes) <= largest:
            given = ",".join(map(str, self.nodes))
            expected = f"it must be whole numbers from 1 to {largest}, with {self.gpus_per_node} GPUs each"
            raise ConfigError("nodes", given, expected)
        for name in ("nodes", "topology"):
            listed = [str(one) for one in getattr(self, name)]
            if len(set(listed)) < len(listed):
                raise ConfigError(name, ",".join(listed), "it must have each one once")
        for name in ("think_seconds", "write_seconds"):
            if (seconds := getattr(self, name)) is not None and not 0 < seconds <= 3600:
                raise ConfigError(name, seconds, "it must be above 0 and at most 3600")
        for name in ("latency", "runtime_seconds"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, getattr(self, name), "it must be between 0 and 1 second")
        if not 0 <= self.spread < 1:
            raise ConfigError("spread", self.spread, "it must be at least 0 and below 1")
        for name, choices in (("placement", PLACEMENTS), ("driver", ("charged", "free"))):
            if getattr(self, name) not in choices:
                raise ConfigError(name, getattr(self, name), f"it must be {', '.join(choices[:-1])} or {choices[-1]}")
        self._check_replicas()
        if (gpus := self.gpus) is not None and gpus.cores is not None:
            raise ConfigError("hardware", self.hardware, f"it must be that of GPUs: {', '.join(_GPUS)}")
        self.speeds  # noqa: B018  raises for what is no speed
        self.store_bytes  # noqa: B018
        if self.plot is not None:
            check_plot_file(self.plot)

    def _check_replicas(self) -> None:
        if self.replicas == AUTO:
            if self.placement == "spread":
                raise ConfigError("placement", "spread", f"with replicas {AUTO} it must be auto, pack or colocate")
            return
        if self.replicas == BALANCED:
            return
        if not (self.replicas.isascii() and self.replicas.isdigit() and 1 <= len(self.replicas) <= 5):
            raise ConfigError(
                "replicas", self.replicas, f"it must be a whole number of at least 1, {BALANCED} or {AUTO}"
            )
        if not 1 <= int(self.replicas) <= MAX_GPUS:
            raise ConfigError("replicas", self.replicas, f"it must be between 1 and {MAX_GPUS}")

    def questions_on(self, num_nodes: int) -> int:
        """Return the questions of the run on so many nodes: as many for each node as on the largest cluster, so that
        filling and emptying the cluster count the same in all."""
        return max(1, round(self.questions * num_nodes / max(self.nodes)))

    def drivers_on(self, num_nodes: int) -> int:
        """Return the number of drivers on so many nodes: at most `drivers`, each with as many nodes, and questions."""
        most = min(self.drivers, self.questions_on(num_nodes))
        return max(count for count in range(1, most + 1) if num_nodes % count == 0)

    @property
    def gpus(self) -> Hardware | None:
        """The figures of the GPUs, published or measured, if they are named. Raises ConfigError."""
        return None if self.hardware is None else hardware_named_or_in(self.hardware)

    @property
    def speeds(self) -> LinkSpeeds:
        """The links: those that are given, else those of the hardware, else what a plan assumes. Raises ConfigError."""
        given = {"nvlink": self.nvlink, "network": self.network}
        others = None if self.gpus is None else self.gpus.link_speeds()
        return LinkSpeeds.parse({name: text for name, text in given.items() if text is not None}, others)

    @property
    def mean_seconds(self) -> dict[Literal["latent", "text"], float | None]:
        """The mean seconds of a turn, by what its agent does; None: as predicted for the hardware."""
        is_predicted = self.hardware is not None
        others = (None, None) if is_predicted else (_THINK_SECONDS, _WRITE_SECONDS)
        given = (self.think_seconds, self.write_seconds)
        think, write = (other if own is None else own for own, other in zip(given, others, strict=True))
        return {"latent": think, "text": write}

    @property
    def turns_in_words(self) -> str:
        """The seconds of turns, for titles."""
        if None in self.mean_seconds.values():
            return f"turns as predicted for {self.hardware}"
        think, write = self.mean_seconds.values()
        return f"turns of {think:g} s that think and {write:g} s that write"

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
