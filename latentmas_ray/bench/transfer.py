"""What moving working memory costs, against what its link can do in the same run.

Segments of one model's KV shape go from cache to cache over every link that there is, with every transport that works
here. After each hand-over the link itself moves as many bytes: A B A B …, so that a machine whose speed drifts slows
both. Ratios are taken pair by pair, and medians are what is reported.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

from latentmas_ray.bench.actors import BenchCluster, BenchNode
from latentmas_ray.bench.end_to_end import EndToEnd, measure_end_to_end
from latentmas_ray.bench.machine import Log, processor
from latentmas_ray.bench.pairs import InProcessPath, TransferPath, TwoActorPath, num_threads
from latentmas_ray.bench.stamps import SizeFigures, size_figures
from latentmas_ray.bench.transfer_settings import DEFAULT_TOKENS, TransferBenchSettings
from latentmas_ray.engine.turn import Link
from latentmas_ray.errors import ConfigError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.models.presets import kv_shape
from latentmas_ray.transport.make import Candidate, find_candidates
from latentmas_ray.units import format_bytes

LINKS: tuple[Link, ...] = ("same_process", "same_node", "cross_node")
# How often a segment is in the memory of one machine at most: both caches, a piece, the object store, two buffers for
# the link's own measurement, and what the store has not let go of yet.
_COPIES = 7
_COPIES_IN_STORE = 2
_NUM_WARM_UPS = 2


@dataclass(frozen=True, kw_only=True)
class WayFigures:
    """One transport over one link."""

    link: Link
    transport: str
    limit: str  # what the move is measured against
    clock_error_seconds: float  # by how much a move between nodes may be wrong; 0 on one machine
    sizes: tuple[SizeFigures, ...]


@dataclass(frozen=True, kw_only=True)
class TransferBench:
    """The outcome of one run."""

    settings: TransferBenchSettings
    machine: str
    bytes_per_token: int
    ways: tuple[WayFigures, ...]
    end_to_end: EndToEnd | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(settings: TransferBenchSettings, progress: Log) -> TransferBench:
    """Measure. Raises InputError kinds for settings that do not fit this machine or cluster, RunError kinds if an end
    dies or bytes arrive altered."""
    chosen = find_candidates(settings.transports)
    spec = kv_shape(settings.model, dtype=settings.dtype)
    with ExitStack() as stack:
        nodes: Sequence[BenchNode] = ()
        if settings.end_to_end or any(offer.links - {"same_process"} for offer in chosen.values()):
            nodes = stack.enter_context(BenchCluster(settings.address)).nodes()
        elif settings.address is not None:
            raise ConfigError("address", settings.address, "none of these transports leaves this process")
        ways = [
            _measure(settings, spec, name, offer, link, nodes, progress) for name, offer, link in _ways(chosen, nodes)
        ]
        if not ways:
            needed = " or ".join(sorted(chosen))
            raise ConfigError("transports", ",".join(chosen), f"no link is there that {needed} could use")
        end_to_end = measure_end_to_end(settings, progress) if settings.end_to_end else None
    return TransferBench(
        settings=settings,
        machine=_machine(len(nodes)),
        bytes_per_token=spec.bytes_per_token,
        ways=tuple(ways),
        end_to_end=end_to_end,
    )


def _ways(chosen: Mapping[str, Candidate], nodes: Sequence[BenchNode]) -> Iterator[tuple[str, Candidate, Link]]:
    for link in LINKS:
        for name, offer in chosen.items():
            if link in offer.links and (link != "cross_node" or len(nodes) > 1):
                yield name, offer, link


def _measure(
    settings: TransferBenchSettings,
    spec: KVCacheSpec,
    name: str,
    offer: Candidate,
    link: Link,
    nodes: Sequence[BenchNode],
    progress: Log,
) -> WayFigures:
    store_bytes = min((node.store_bytes for node in nodes), default=0.0) if offer.fills_store else None
    fitting(settings.tokens, spec.bytes_per_token, free=None, store=store_bytes)  # before two actors are started for it
    path = _make_path(spec, offer, link, nodes)
    with closing(path):
        sizes = fitting(settings.tokens, spec.bytes_per_token, free=path.free_bytes(), store=store_bytes)
        figures = [_measure_size(path, name, spec, tokens, settings.repeats, progress) for tokens in sizes]
        return WayFigures(
            link=link,
            transport=name,
            limit="TCP" if link == "cross_node" else "memcpy",
            clock_error_seconds=path.clock_error_seconds,
            sizes=tuple(figures),
        )


def _make_path(spec: KVCacheSpec, offer: Candidate, link: Link, nodes: Sequence[BenchNode]) -> TransferPath:
    transport = offer.make(within_one_node=link != "cross_node")
    if link == "same_process":
        return InProcessPath(spec, transport)
    return TwoActorPath(spec, transport, nodes[0], nodes[0 if link == "same_node" else 1])


def fitting(
    tokens: tuple[int, ...] | None, bytes_per_token: int, *, free: float | None, store: float | None
) -> list[int]:
    """The sizes to measure; None is a limit that is not there, or not known yet. Raises ConfigError for a given one
    that does not fit, or if none fits."""
    limits = {"free memory": (free, _COPIES), "object store": (store, _COPIES_IN_STORE)}
    known = {name: (limit, copies) for name, (limit, copies) in limits.items() if limit is not None}
    room = min((limit / copies / bytes_per_token for limit, copies in known.values()), default=math.inf)
    fits = [count for count in tokens or DEFAULT_TOKENS if count <= room]
    if fits and (tokens is None or len(fits) == len(tokens)):
        return sorted(set(fits))
    too_large = max(tokens or DEFAULT_TOKENS[:1])
    places = " and ".join(
        f"{format_bytes(limit)} of {name} hold {copies} copies" for name, (limit, copies) in known.items()
    )
    raise ConfigError(
        "tokens",
        str(too_large),
        f"it must be at most {int(room)} tokens of {format_bytes(bytes_per_token)}, of which {places}",
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
