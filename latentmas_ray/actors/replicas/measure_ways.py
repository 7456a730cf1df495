"""Measures, at the start of a run, by which transport memory goes from node to node fastest."""

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import ray

from latentmas_ray.actors.errors import cluster_errors
from latentmas_ray.actors.replicas.replica import Replica
from latentmas_ray.config import TransportName
from latentmas_ray.errors import ClusterError, first_line
from latentmas_ray.transport.choose import LinkTimes
from latentmas_ray.transport.make import make_transport

PROBE_BYTES = 8 * 2**20
WAYS: tuple[TransportName, ...] = ("tcp", "object_store")
_REPEATS = 5  # after one of each that warms up
_TIMEOUT_SECONDS = 20.0  # for all together: then the run begins without it


def measure_ways(replicas: Sequence[Replica]) -> LinkTimes:
    """Return the seconds of a hand-over of `PROBE_BYTES` between actors on two nodes by each of `WAYS`.

    It is the time from the order to send until the other actor has copied the bytes, for all ways in turn, so that
    a machine that becomes slower slows all. Actors that do not answer in time are reported as `LinkTimes.failed`.
    """
    on_node: Mapping[str, Any] = {
        node: actor for replica in reversed(replicas) for node, actor in zip(replica.nodes, replica.actors, strict=True)
    }
    sender, reader = list(on_node.values())[:2]
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    transports = {name: make_transport(name) for name in WAYS}
    try:
        with cluster_errors("no measurement"):
            _get([_side(actor.open_probes).remote(transports, PROBE_BYTES) for actor in (sender, reader)], deadline)
            seconds = _measure(sender, reader, deadline)
            _get([_side(actor.open_probes).remote({}, 0) for actor in (sender, reader)], deadline)
    except ClusterError as error:
        for actor in (sender, reader):
            _side(actor.open_probes).remote({}, 0)  # when they can
        return LinkTimes(failed=first_line(error))
    return LinkTimes(num_bytes=PROBE_BYTES, seconds={name: median(times[1:]) for name, times in seconds.items()})


def _measure(sender: Any, reader: Any, deadline: float) -> dict[TransportName, list[float]]:
    seconds: dict[TransportName, list[float]] = {name: [] for name in WAYS}
    for _ in range(_REPEATS + 1):
        for name, times in seconds.items():
            begun = time.perf_counter()
            payload = _side(sender.use_probe).remote(name, "send")
            _get([_side(reader.use_probe).remote(name, "receive", payload)], deadline)
            times.append(time.perf_counter() - begun)
            _get([_side(actor.use_probe).remote(name, "release") for actor in (sender, reader)], deadline)
    return seconds


def _side(method: Any) -> Any:
    return method.options(concurrency_group="side")


def _get(references: list[Any], deadline: float) -> None:
    ray.get(references, timeout=max(0.0, deadline - time.monotonic()))
