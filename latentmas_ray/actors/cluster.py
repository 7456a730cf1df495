"""Joining a Ray cluster, or starting one on this machine. Ray's errors end here."""

import logging
import os
import socket
from dataclasses import dataclass

import ray

from latentmas_ray.errors import ClusterError, ConfigError

_PROBE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A connection to Ray, and whether it is ours to end."""

    owned: bool
    num_nodes: int
    gpus: float
    cpus: float
    node_cpus: int  # of the smallest node
    object_store_bytes: float

    def leave(self) -> None:
        """End the connection if `connect` made it; a cluster that was joined goes on."""
        if self.owned and ray.is_initialized():
            ray.shutdown()


def connect(address: str | None) -> Cluster:
    """Use the connection that this process has; else join the cluster at `address`; else start one here.

    Raises ConfigError for an address where no cluster answers, ClusterError if Ray cannot start.
    """
    owned = not ray.is_initialized()
    if owned:
        if address is not None:
            _check_reachable(address)
        try:
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else {"include_dashboard": False}),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            if address is None:
                raise ClusterError(f"Ray cannot start on this machine: {error}") from error
            raise ConfigError("address", address, f"a Ray cluster must answer there: {error}") from error
    totals = ray.cluster_resources()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return Cluster(
        owned=owned,
        num_nodes=len(nodes),
        gpus=totals.get("GPU", 0.0),
        cpus=totals.get("CPU", 0.0),
        node_cpus=min((int(node["Resources"].get("CPU", 0)) for node in nodes), default=0) or os.cpu_count() or 1,
        object_store_bytes=totals.get("object_store_memory", 0.0),
    )


def _check_reachable(address: str) -> None:
    """A quick look at the port: Ray itself would try for minutes. Names such as `auto` are left to Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        if address in ("auto", "local"):
            return
        raise ConfigError("address", address, "it must be HOST:PORT, ray://HOST:PORT or auto")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError("address", address, "its port must be a number from 1 to 65535")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
    except OSError as error:
        raise ConfigError("address", address, f"a Ray cluster must answer there: {error.strerror or error}") from error
