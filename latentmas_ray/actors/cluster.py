"""Joining a Ray cluster, or starting one on this machine. Ray's errors end here."""

import logging
import socket
from dataclasses import dataclass

import ray

from latentmas_ray.actors.resources import NodeResources
from latentmas_ray.errors import ClusterError, ConfigError

_PROBE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A connection to Ray, and whether it is ours to end."""

    owned: bool
    nodes: tuple[NodeResources, ...]
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
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Cluster(
        owned=owned,
        nodes=tuple(
            NodeResources(num_gpus=resources.get("GPU", 0.0), num_cpus=resources.get("CPU", 0.0)) for resources in alive
        ),
        object_store_bytes=sum(resources.get("object_store_memory", 0.0) for resources in alive),
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
