"""Measures the cost of moving working memory, against the limit of its link in the same run.

Segments of one model's KV shape go from cache to cache over every link, with every transport that works here. After
each transfer the link itself moves as many bytes: A B A B …, so that a drift of the machine's speed affects both.
Ratios are taken per pair; medians are reported.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

from latentmas_ray.actors.bench_actor import BenchCluster, BenchNode
from latentmas_ray.bench.end_to_end import EndToEnd, measure_end_to_end
from latentmas_ray.bench.machine import Log, processor
from latentmas_ray.bench.paths import InProcessPath, TransferPath, TwoActorPath, num_threads
from latentmas_ray.bench.timings import SizeFigures, size_figures
from latentmas_ray.bench.transfer_settings import DEFAULT_TOKENS, TransferBenchSettings
from latentmas_ray.engine.turn import Link
from latentmas_ray.errors import ConfigError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.models.presets import kv_shape
from latentmas_ray.transport.make import Candidate, find_candidates
from latentmas_ray.units import format_bytes

LINKS: tuple[Link, ...] = ("same_process", "same_node", "cross_node")
# The most copies of a segment in one machine's memory: both caches, a chunk, the object store, two buffers to measure
# the link, and one that the store has not freed yet.
_COPIES = 7
_COPIES_IN_STORE = 2
_NUM_WARM_UPS = 2


@dataclass(frozen=True, kw_only=True)
class TransportFigures:
    """The figures of one transport over one link."""

    link: Link
    transport: str
    limit: str  # the reference of a move
    clock_error_seconds: float  # error of a move between nodes; 0 on one machine
    sizes: tuple[SizeFigures, ...]


@dataclass(frozen=True, kw_only=True)
class TransferBench:
    """The result of one run."""

    settings: TransferBenchSettings
    machine: str
    bytes_per_token: int
    ways: tuple[TransportFigures, ...]
    end_to_end: EndToEnd | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(settings: TransferBenchSettings, progress: Log) -> TransferBench:
    """Measure every transport over every link.

    Raises InputError kinds for settings that do not fit this machine or cluster, RunError kinds if an endpoint dies or
    bytes arrive altered.
    """
    chosen = find_candidates(settings.transports)
    spec = kv_shape(settings.model, dtype=settings.dtype)
    with ExitStack() as stack:
        nodes: Sequence[BenchNode] = ()
        if settings.end_to_end or any(candidate.links - {"same_process"} for candidate in chosen.values()):
            nodes = stack.enter_context(BenchCluster(settings.address)).nodes()
        elif settings.address is not None:
            raise ConfigError("address", settings.address, "these transports work within this process only")
        ways = [
            _measure(settings, spec, name, candidate, link, nodes, progress)
            for name, candidate, link in _transports_and_links(chosen, nodes)
        ]
        if not ways:
            needed = " or ".join(sorted(chosen))
            raise ConfigError("transports", ",".join(chosen), f"there is no link that {needed} could use")
        end_to_end = measure_end_to_end(settings, progress) if settings.end_to_end else None
    return TransferBench(
        settings=settings,
        machine=_machine(len(nodes)),
        bytes_per_token=spec.bytes_per_token,
        ways=tuple(ways),
        end_to_end=end_to_end,
    )


def _transports_and_links(
    chosen: Mapping[str, Candidate], nodes: Sequence[BenchNode]
) -> Iterator[tuple[str, Candidate, Link]]:
    for link in LINKS:
        for name, candidate in chosen.items():
            if link in candidate.links and (link != "cross_node" or len(nodes) > 1):
                yield name, candidate, link


def _measure(
    settings: TransferBenchSettings,
    spec: KVCacheSpec,
    name: str,
    candidate: Candidate,
    link: Link,
    nodes: Sequence[BenchNode],
    progress: Log,
) -> TransportFigures:
    store_bytes = min((node.store_bytes for node in nodes), default=0.0) if candidate.fills_store else None
    fitting(settings.tokens, spec.bytes_per_token, free=None, store=store_bytes)  # before two actors are started
    path = _make_path(spec, candidate, link, nodes)
    with closing(path):
        sizes = fitting(settings.tokens, spec.bytes_per_token, free=path.free_bytes(), store=store_bytes)
        figures = [_measure_size(path, name, spec, tokens, settings.repeats, progress) for tokens in sizes]
        return TransportFigures(
            link=link,
            transport=name,
            limit="TCP" if link == "cross_node" else "memcpy",
            clock_error_seconds=path.clock_error_seconds,
            sizes=tuple(figures),
        )


def _make_path(spec: KVCacheSpec, candidate: Candidate, link: Link, nodes: Sequence[BenchNode]) -> TransferPath:
    transport = candidate.make(within_one_node=link != "cross_node")
    if link == "same_process":
        return InProcessPath(spec, transport)
    return TwoActorPath(spec, transport, nodes[0], nodes[0 if link == "same_node" else 1])


def fitting(
    tokens: tuple[int, ...] | None, bytes_per_token: int, *, free: float | None, store: float | None
) -> list[int]:
    """Return the sizes to measure. A limit of None does not apply or is not known yet.

    Raises ConfigError if a given size does not fit, or if none fits.
    """
    limits = {"free memory": (free, _COPIES), "object store": (store, _COPIES_IN_STORE)}
    known = {name: (limit, copies) for name, (limit, copies) in limits.items() if limit is not None}
    max_tokens = min((limit / copies / bytes_per_token for limit, copies in known.values()), default=math.inf)
    fits = [count for count in tokens or DEFAULT_TOKENS if count <= max_tokens]
    if fits and (tokens is None or len(fits) == len(tokens)):
        return sorted(set(fits))
    too_large = max(tokens or DEFAULT_TOKENS[:1])
    places = " and ".join(
        f"{format_bytes(limit)} of {name} hold {copies} copies" for name, (limit, copies) in known.items()
    )
    raise ConfigError(
        "tokens",
        str(too_large),
        f"it must be at most {int(max_tokens)} tokens of {format_bytes(bytes_per_token)}, of which {places}",
    )


def _measure_size(
    path: TransferPath, name: str, spec: KVCacheSpec, tokens: int, repeats: int, progress: Log
) -> SizeFigures:
    path.prepare(tokens)
    for index in range(_NUM_WARM_UPS):
        path.hand_over()
        if index == 0:
            path.check()
    num_bytes = tokens * spec.bytes_per_token
    runs = [path.hand_over() for _ in range(repeats)]
    figures = size_figures(tokens, num_bytes, runs, is_remote=path.link == "cross_node")
    progress(
        f"{path.link.replace('_', ' ')}, {name}, {tokens} tokens ({format_bytes(num_bytes)}): "
        f"move {figures.move.seconds * 1000:.2f} ms, hand-over {figures.hand_over.seconds * 1000:.2f} ms"
    )
    return figures


def _machine(num_nodes: int) -> str:
    nodes = f", {num_nodes} nodes" if num_nodes > 1 else ""
    threads = "1 torch thread" if num_threads() == 1 else f"{num_threads()} torch threads"
    return f"{processor()}, {threads}{nodes}"
