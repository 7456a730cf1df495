"""Schedules of faults: a pure function from a seed to a run and to what happens to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, get_args

FaultKind = Literal[
    "kill actor",
    "stop actor",
    "crash node",
    "silence node",
    "stop node",
    "cut link",
    "slow link",
    "drain node",
    "join node",
    "kill driver",
]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
WORKERS = (1, 2)  # node 0 is the head, where the driver is: with it everything ends
MAX_FAULTS = 4
OWN_TOPOLOGY = Path(__file__).with_name("own.yaml")
# After this long Ray has given a node up (`nodes.SOON_DEAD`).
LOST_SECONDS = 30.0
_SECONDS: dict[FaultKind, tuple[float, ...]] = {
    "stop actor": (1.0, 4.0, 10.0),
    "stop node": (1.0, 4.0, 10.0, 40.0),
    "cut link": (1.0, 3.0, 6.0, 10.0, 40.0),
    "slow link": (5.0, 15.0),
    "drain node": (2.0, 8.0),
}
_WEIGHTS: dict[FaultKind, int] = {"kill actor": 3, "crash node": 2, "kill driver": 2, "join node": 4}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is computed: it decides the answers."""

    topology: str
    num_questions: int
    batch_size: int
    max_new_tokens: int
    temperature: float
    decode_batch: int | None
    transfer: str

    def flags(self) -> list[str]:
        """As the command line takes it, without the questions."""
        topology = str(OWN_TOPOLOGY) if self.topology == "own" else self.topology
        flags = ["--topology", topology, "--batch-size", str(self.batch_size), "--transfer", self.transfer]
        flags += ["--max-new-tokens", str(self.max_new_tokens), "--temperature", str(self.temperature)]
        return flags + ([] if self.decode_batch is None else ["--decode-batch", str(self.decode_batch)])

    def __str__(self) -> str:
        decoding = "" if self.decode_batch is None else f", {self.decode_batch} texts at once"
        return (
            f"{self.topology}, {self.num_questions} questions in batches of {self.batch_size}, {self.max_new_tokens} "
            f"tokens{decoding}, temperature {self.temperature:g}, transfer {self.transfer}"
        )


@dataclass(frozen=True, kw_only=True)
class Way:
    """How it is computed: it must not change the answers."""

    replicas: str
    placement: str
    transport: str
    overlap: bool
    memory_in_flight: str

    def flags(self) -> list[str]:
        """As the command line takes it."""
        flags = ["--replicas", self.replicas, "--placement", self.placement, "--transport", self.transport]
        return [*flags, "--overlap" if self.overlap else "--no-overlap", "--memory-in-flight", self.memory_in_flight]

    def __str__(self) -> str:
        overlap = "overlap" if self.overlap else "no overlap"
        memory = f"memory in flight {self.memory_in_flight}"
        return f"replicas {self.replicas}, {self.placement}, transport {self.transport}, {overlap}, {memory}"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens once so many answers are there; after 0, as soon as an actor is."""

    after: int
    kind: FaultKind
    node: int | None = None  # a worker
    pick: int | None = None  # which actor, of those that live then: the remainder by their number
    seconds: float | None = None  # until it is undone, or for a drain until the node's processes die
    megabits: int | None = None  # per second, of a slow link

    @property
    def loses_node(self) -> bool:
        """Whether Ray is without the node afterwards, at least if the run is long enough."""
        is_long = self.kind in ("stop node", "cut link") and (self.seconds or 0.0) >= LOST_SECONDS
        return is_long or self.kind in ("crash node", "silence node", "drain node")

    def __str__(self) -> str:
        what = self.kind if self.pick is None else f"{self.kind} {self.pick}"
        what = what if self.node is None else f"{what} {self.node}"
        rate = "" if self.megabits is None else f" to {self.megabits} Mbit/s"
        seconds = "" if self.seconds is None else f" for {self.seconds:g} s"
        return f"after {self.after}: {what}{rate}{seconds}"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A run, the workers that it starts on, and its faults in their order."""

    seed: int
    work: Work
    way: Way
    workers: tuple[int, ...]
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        nodes = ", ".join(str(node) for node in (0, *self.workers))
        return f"{self.work}; {self.way}; nodes {nodes}; {'; '.join(str(fault) for fault in self.faults)}"


def draw_schedule(seed: int) -> Schedule:
    """Draw the schedule of a seed. The same seed gives the same schedule everywhere.

    A fault hits only a node that is there, and only a node that is not there joins. The head stays and has room for
    all actors, so every schedule can be answered to its end.
    """
    random = Random(f"fault schedule {seed}")
    work, way = _draw_work(random), _draw_way(random)
    is_joined = random.random() < 0.25
    workers = (random.choice(WORKERS),) if is_joined else WORKERS
    num_faults = random.randint(1, MAX_FAULTS)
    times = sorted(random.randint(0, work.num_questions // 2) for _ in range(num_faults))
    return Schedule(seed=seed, work=work, way=way, workers=workers, faults=_draw_faults(random, times, workers))


def _draw_work(random: Random) -> Work:
    return Work(
        topology=random.choice(("sequential", "hierarchical", "own")),
        num_questions=random.choice((48, 72)),
        batch_size=random.choice((1, 2, 3)),
        max_new_tokens=random.choice((12, 24)),
        temperature=random.choice((0.0, 0.8)),
        decode_batch=random.choice((None, None, 1, 4)),
        transfer=random.choice(("kv", "kv", "kv", "recompute", "auto")),
    )


def _draw_way(random: Random) -> Way:
    placement = random.choice(("auto", "pack", "spread", "spread", "spread", "colocate"))
    networks = ("auto", "auto", "object_store", "tcp", "same_node=shared_memory,cross_node=object_store")
    return Way(
        replicas=random.choice(("1", "1", "2")),
        placement=placement,
        transport="auto" if placement == "colocate" else random.choice(networks),
        overlap=random.random() < 0.75,
        memory_in_flight=random.choice(("auto", "auto", "8MB")),
    )


def _draw_faults(random: Random, times: Sequence[int], workers: Sequence[int]) -> tuple[Fault, ...]:
    there = set(workers)
    faults: list[Fault] = []
    for after in times:
        possible = [kind for kind in KINDS if _is_possible(kind, after, there)]
        kind = random.choices(possible, [_WEIGHTS.get(kind, 1) for kind in possible])[0]
        nodes = sorted(set(WORKERS) - there) if kind == "join node" else sorted(there)
        fault = Fault(
            after=after,
            kind=kind,
            node=random.choice(nodes) if kind.endswith(("node", "link")) else None,
            pick=random.randrange(8) if kind.endswith("actor") else None,
            seconds=random.choice(_SECONDS[kind]) if kind in _SECONDS else None,
            megabits=random.choice((1, 4, 16)) if kind == "slow link" else None,
        )
        faults.append(fault)
        if fault.node is not None and fault.loses_node:
            there.remove(fault.node)
        elif fault.node is not None and kind == "join node":
            there.add(fault.node)
    return tuple(faults)


def _is_possible(kind: FaultKind, after: int, there: set[int]) -> bool:
    if kind == "join node":
        return len(there) < len(WORKERS)
    if kind.endswith(("node", "link")):
        return bool(there)
    return after > 0 or kind == "kill driver"  # an actor that dies while it loads its model is reported as what it is
