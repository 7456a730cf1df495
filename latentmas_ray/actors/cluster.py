"""Joining a Ray cluster, or starting one on this machine. Ray's errors end here."""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from threading import Thread

import ray

from latentmas_ray.actors.errors import CANNOT_CONNECT
from latentmas_ray.env import read_environment, silence_unhandled_ray_errors
from latentmas_ray.errors import ClusterError, ConfigError
from latentmas_ray.placement.resources import NodeResources

_PROBE_SECONDS = 5.0
# How an HTTP/2 client begins: the preface of the protocol and an empty frame of settings. The server's first frame is
# one of settings too; a frame is three bytes of length and then its type.
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_SETTINGS = bytes([4])
_TLS_ALERT = bytes([21, 3])


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A connection to Ray, whether it is ours to end, and the nodes that were alive when it was looked at."""

    owned: bool
    nodes: tuple[NodeResources, ...]
    node_ids: frozenset[str]
    store_bytes: Mapping[str, float]  # of the object store of each node

    @classmethod
    def look(cls, *, owned: bool) -> "Cluster":
        """The cluster of this process's connection, as it is now."""
        alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        return cls(
            owned=owned,
            nodes=tuple(
                NodeResources(name=node_id, num_gpus=resources.get("GPU", 0.0), num_cpus=resources.get("CPU", 0.0))
                for node_id, resources in alive.items()
            ),
            node_ids=frozenset(alive),
            store_bytes={name: resources.get("object_store_memory", 0.0) for name, resources in alive.items()},
        )

    def has_lost_nodes(self) -> bool:
        """Whether any of these nodes has died since."""
        return not self.node_ids <= {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def leave(self) -> None:
        """End the connection if `connect` made it; a cluster that was joined goes on."""
        if self.owned and ray.is_initialized():
            ray.shutdown()


def connect_as_configured(address: str | None) -> Cluster:
    """`connect` to `address`; without one, to the cluster in RAY_ADDRESS, if that is set. Raises like `connect`, and
    ConfigError for a bad environment."""
    environment = read_environment()
    if address is None and environment.ray_address is not None:
        return connect(environment.ray_address, field="RAY_ADDRESS")
    return connect(address)


def connect(address: str | None, *, field: str = "address") -> Cluster:
    """Use the connection that this process has; else join the cluster at `address`; else start one here.

    `field` names for messages where the address was given. Raises ConfigError for an address where no cluster
    answers, or that is not the one of the connection; ClusterError if Ray cannot start.
    """
    owned = not ray.is_initialized()
    if address is not None and (owned or not _is_current(address)):
        _check_reachable(address, field)
    if not owned and address is not None and field == "address" and not _is_current(address):
        current = ray.get_runtime_context().gcs_address
        raise ConfigError(field, address, f"this process uses the Ray cluster at {current}; leave it out, or use that")
    if owned:
        silence_unhandled_ray_errors()
        try:
            with _importing_torch(), _hold_back_stderr() if address else nullcontext():
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({} if address else {"include_dashboard": False}),
                )
        except CANNOT_CONNECT as error:
            if address is None:
                raise ClusterError(f"Ray cannot start on this machine: {error}") from error
            raise ConfigError(field, address, _what_it_takes(error)) from error
    return Cluster.look(owned=owned)


@contextmanager
def _importing_torch() -> Iterator[None]:
    """Import torch, which whoever talks to actors needs, while the body starts Ray: both take seconds, and Ray's are
    spent in other processes."""
    importing = Thread(target=import_module, args=("latentmas_ray.transport.make",), name="import torch")
    importing.start()
    try:
        yield
    finally:
        importing.join()


def _is_current(address: str) -> bool:
    """Whether this process is connected to the cluster at `address`, whose host may have several names."""
    if address in ("auto", "local"):
        return True
    port = str(ray.get_runtime_context().gcs_address).rpartition(":")[2]
    return address.rpartition(":")[2] == port


@contextmanager
def _hold_back_stderr() -> Iterator[None]:
    """Pass on what is printed in the body only if the body succeeds: Ray's C++ part, which no setting silences there,
    prints the reason of a failure again at every attempt, and the error has it too."""
    if sys.stderr is None:  # the process was started without one
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        own = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)
        held.seek(0)
        sys.stderr.write(held.read().decode(errors="replace"))


def _what_it_takes(error: Exception) -> str:
    """What must be so for a cluster to be joined where `error` was raised; Ray tells the reason in its cause."""
    reason = f"{error!r} {error.__cause__!r}"
    if "AuthenticationError" in reason:
        return "RAY_AUTH_MODE and RAY_AUTH_TOKEN must be those of the cluster that answers there"
    if "No node info found" in reason:
        return "a Ray cluster answers there, but this machine must be one of its nodes; `ray job submit` runs it on one"
    return f"a Ray cluster must answer there, with the same RAY_AUTH_MODE and RAY_AUTH_TOKEN as here: {error}"


def _check_reachable(address: str, field: str) -> None:
    """A quick look at the port: Ray itself would try for many minutes. Names such as `auto` are left to Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        if address in ("auto", "local"):
            return
        raise ConfigError(field, address, "it must be HOST:PORT, ray://HOST:PORT or auto")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(field, address, "its port must be a number from 1 to 65535")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS) as connection:
            is_other = _is_another_service(connection)
    except OSError as error:
        raise ConfigError(field, address, f"a Ray cluster must answer there: {error.strerror or error}") from error
    if is_other:
        raise ConfigError(field, address, "a Ray cluster must answer there: what listens is not Ray")


def _is_another_service(connection: socket.socket) -> bool:
    """Whether what listens is silent or speaks a protocol other than gRPC, that is HTTP/2.

    A closed connection says nothing, and neither does a TLS alert: where Ray uses TLS it may answer so.
    """
    connection.sendall(_HTTP2_HELLO)
    reply = b""
    while len(reply) < 4 and (more := connection.recv(64)):
        reply += more
    return bool(reply) and reply[3:4] != _HTTP2_SETTINGS and not reply.startswith(_TLS_ALERT)
