"""Measures the matrix: every pair alone, then several senders to one reader, then all to all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, TypeVar

from latentmas_ray.actors.bench_actor import BenchCluster
from latentmas_ray.bench.machine import Log, processor
from latentmas_ray.bench.matrix.ends import Ends, LostEndError, make_ends
from latentmas_ray.bench.matrix.figures import GroupFigures, LinkFigures, MatrixBench, group_figures, link_figures
from latentmas_ray.bench.matrix.pairs import EndPlace, find_ends, find_pairs, first_ends, incast_senders, on_one_kind
from latentmas_ray.bench.matrix.settings import MatrixSettings, Pairs
from latentmas_ray.bench.paths import AlteredBytesError, check_digests, num_threads
from latentmas_ray.config import TransportName
from latentmas_ray.errors import ConfigError, LatentMASError, RunError, first_line
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.models.presets import kv_shape
from latentmas_ray.transport import DeviceLayout, Transport, pick_transport
from latentmas_ray.transport.make import TRANSPORTS
from latentmas_ray.units import format_bytes

Figures = TypeVar("Figures", LinkFigures, GroupFigures)
_MAX_STREAMS = 8  # segments that an end receives at the same time where all send to all
_COPIES = 5  # of a segment at an end besides those that it receives: what it sends, packed, two buffers, the store
_NO_PAIR: Mapping[Pairs, str] = {
    "nodes": "the cluster has one node for agents: use all, or an --address of several nodes",
    "all": "the cluster has one GPU: it takes an --address of several nodes, or a node with several GPUs",
}


@dataclass(frozen=True)
class _Measuring:
    """What all measurements of one run need."""

    ends: Ends
    repeats: int
    num_bytes: int
    progress: Log


def run_matrix(settings: MatrixSettings, progress: Log) -> MatrixBench:
    """Measure a cluster. A node that dies meanwhile is named in the result, and the others are measured.

    Raises InputError kinds for settings that do not fit the cluster, RunError if no pair can be measured or bytes
    arrive altered.
    """
    _check_name(settings.transport)
    spec = kv_shape(settings.model, dtype=settings.dtype)
    with ExitStack() as stack:
        nodes = stack.enter_context(BenchCluster(settings.address)).nodes()
        places = on_one_kind(find_ends([node.num_gpus for node in nodes], settings.pairs))
        pairs = find_pairs(places)
        num_nodes = len({place.node for place in places})
        told = _left_out(len(nodes) - num_nodes)
        if not pairs:
            raise ConfigError("pairs", settings.pairs, "; ".join(filter(None, (_NO_PAIR[settings.pairs], told))))
        if told:
            progress(told)
        ends = make_ends(nodes, places, spec, settings.tokens, num_threads())
        stack.enter_context(closing(ends))
        progress(f"{len(places)} ends on {num_nodes} nodes start, {len(pairs)} pairs will be measured")
        ends.start()
        if len(ends.facts) < 2:
            raise RunError(f"fewer than two ends of links have started: {next(iter(ends.lost.values()), 'none')}")
        firsts = first_ends(places)
        num_streams = max(1, min(settings.concurrent, len(firsts) - 1), min(_MAX_STREAMS, len(firsts) - 1))
        _check_memory(settings.tokens, spec, ends, num_streams, max(num_streams, len(firsts) - 1))
        transport, why = _pick(settings.transport, ends.layout())
        progress(f"transport {transport.name}" + (f" ({why})" if why else ""))
        ends.prepare(transport, num_streams)
        run = _Measuring(ends, settings.repeats, settings.tokens * spec.bytes_per_token, progress)
        links = [_measure_pair(run, *pair) for pair in pairs]
        if all(link.failed for link in links):
            raise RunError(f"no pair could be measured: {next(iter(ends.lost.values()), links[0].failed)}")
        incast = [_measure_incast(run, firsts, reader, settings.concurrent) for reader in firsts if len(firsts) > 1]
        all_to_all = _measure_all_to_all(run, firsts) if len(firsts) > 1 else None
        return MatrixBench(
            settings=settings,
            machine=f"{processor()}, {num_nodes} nodes",
            num_bytes=run.num_bytes,
            ends=ends.names,
            links=tuple(links),
            incast=tuple(incast),
            all_to_all=all_to_all,
            lost=dict(ends.lost),
        )


def _left_out(count: int) -> str:
    """Say which nodes have no ends; nothing if all have."""
    if not count:
        return ""
    nodes = "1 node without GPUs is" if count == 1 else f"{count} nodes without GPUs are"
    return f"{nodes} left out, where a run has no agents either while others have GPUs"


def _check_name(name: str) -> None:
    if name != "auto" and name not in TRANSPORTS:
        raise ConfigError("transports", name, f"with --pairs it must be one of auto, {', '.join(TRANSPORTS)}")


def _pick(name: str, layout: DeviceLayout) -> tuple[Transport, str]:
    asked: TransportName = name  # type: ignore[assignment]
    try:
        return pick_transport(asked, "none", layout)
    except ConfigError as error:
        raise ConfigError("transports", name, error.expected) from None


def _check_memory(tokens: int, spec: KVCacheSpec, ends: Ends, num_streams: int, num_received: int) -> None:
    """Raise ConfigError if the segments do not fit into the memory of a machine.

    `num_received`: segments that an end keeps as they came until it has all; it copies `num_streams` at a time.
    """
    of_node: dict[int, list[EndPlace]] = {}
    for place in ends.facts:
        of_node.setdefault(place.node, []).append(place)
    copies = _COPIES + num_streams + num_received
    for on_node in of_node.values():
        free = min(ends.facts[place].free_bytes for place in on_node)
        most = int(free / (copies * len(on_node) * spec.bytes_per_token))
        if tokens > most:
            expected = (
                f"it must be at most {most}: {format_bytes(free)} of memory on {ends.name(on_node[0])} hold "
                f"{copies} copies at each of {len(on_node)} ends"
            )
            raise ConfigError("tokens", str(tokens), expected)


def _measure_pair(run: _Measuring, sender: EndPlace, reader: EndPlace) -> LinkFigures:
    ends = run.ends
    kind = ends.kind(sender, reader)
    facts: dict[str, Any] = {"source": ends.name(sender), "reader": ends.name(reader), "kind": kind}

    def measure() -> LinkFigures:
        warm = ends.move([sender], reader)
        ends.release((sender, reader))
        check_digests(ends.call(sender, "digest", sent=True), ends.call(reader, "digest", sent=False))
        seconds, limits = [], []
        for _ in range(run.repeats):
            seconds.append(ends.move([sender], reader).seconds)
            ends.release((sender, reader))
            limits += _limit_seconds(run, sender, reader, kind)
        limit = ("TCP" if kind == "cross_node" else "memcpy") if limits else ""
        figures = link_figures(run.num_bytes, seconds, limits, transport=warm.transport, limit=limit, **facts)
        assert figures.bytes_per_second is not None
        run.progress(f"{facts['source']} to {facts['reader']}: {figures.bytes_per_second / 1e9:.2f} GB/s")
        return figures

    return _unless_lost(run, (sender, reader), measure, lambda why: LinkFigures(failed=why, **facts))


def _limit_seconds(run: _Measuring, sender: EndPlace, reader: EndPlace, kind: str) -> list[float]:
    """Return the seconds of the plain reference of a link; nothing between the GPUs of a node, which has none."""
    if kind == "cross_node":
        return [run.ends.tcp({sender: [reader]}, None)]
    return [] if run.ends.facts[reader].gpu is not None else [run.ends.memcpy(reader)]


def _measure_incast(run: _Measuring, places: Sequence[EndPlace], reader: EndPlace, concurrent: int) -> GroupFigures:
    """Measure as many senders as are left, at the most `concurrent`."""
    ends, name = run.ends, run.ends.name(reader)
    senders = incast_senders(
        [one for one in places if one == reader or ends.name(one) not in ends.lost], reader, concurrent
    )

    def measure() -> GroupFigures:
        if not senders:
            raise LostEndError("no other node is left")
        seconds, limits = [], []
        for _ in range(run.repeats):
            seconds.append(ends.move(senders, reader).seconds)
            ends.release((*senders, reader))
            limits.append(ends.tcp({sender: [reader] for sender in senders}, 1))
        figures = group_figures(run.num_bytes, len(senders), seconds, limits, name=name)
        _log_group(run, f"{len(senders)} senders to {name}", figures)
        return figures

    return _unless_lost(
        run, (*senders, reader), measure, lambda why: GroupFigures(name=name, num_moves=len(senders), failed=why)
    )


def _measure_all_to_all(run: _Measuring, places: Sequence[EndPlace]) -> GroupFigures:
    """Measure the ends that are left."""
    ends = run.ends
    alive = [place for place in places if ends.name(place) not in ends.lost]
    num_moves = len(alive) * (len(alive) - 1)

    def measure() -> GroupFigures:
        if num_moves == 0:
            raise LostEndError("fewer than two nodes are left")
        seconds, limits = [], []
        for _ in range(run.repeats):
            seconds.append(ends.move_all(alive))
            ends.release(alive)
            limits.append(ends.tcp({place: [other for other in alive if other != place] for place in alive}, 1))
        figures = group_figures(run.num_bytes, num_moves, seconds, limits, name="all to all")
        _log_group(run, "all to all", figures)
        return figures

    return _unless_lost(
        run, alive, measure, lambda why: GroupFigures(name="all to all", num_moves=num_moves, failed=why)
    )


def _unless_lost(
    run: _Measuring, places: Iterable[EndPlace], measure: Callable[[], Figures], failed: Callable[[str], Figures]
) -> Figures:
    """Return what `measure` returns, or what `failed` makes of the reason; ends that do not answer then are lost.

    Altered bytes are an error of the whole benchmark, since no figure of it would mean anything.
    """
    places = tuple(places)
    try:
        run.ends.check_alive(places)
        return measure()
    except LostEndError as error:
        return failed(str(error))
    except AlteredBytesError:
        raise
    except LatentMASError as error:
        lost = run.ends.find_lost(places)
        why = f"{', '.join(lost)} was lost" if lost else first_line(error)
        run.progress(f"{why}; the others are measured: {first_line(error)}")
        return failed(why)


def _log_group(run: _Measuring, what: str, figures: GroupFigures) -> None:
    assert figures.bytes_per_second is not None
    run.progress(f"{what}: {figures.bytes_per_second / 1e9:.2f} GB/s together")
