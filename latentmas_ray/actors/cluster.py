"""Joins a Ray cluster, or starts one on this machine; translates Ray's connection errors."""

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
# The first bytes of an HTTP/2 client: the connection preface and an empty SETTINGS frame. The server's first frame is a
# SETTINGS frame too; a frame starts with three bytes of length and one byte of type.
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_SETTINGS = bytes([4])
_TLS_ALERT = bytes([21, 3])


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A snapshot of a connected Ray cluster: its live nodes, and whether this process owns the connection."""

    owned: bool
    nodes: tuple[NodeResources, ...]
    node_ids: frozenset[str]
    store_bytes: Mapping[str, float]  # size of each node's object store

    @classmethod
    def inspect(cls, *, owned: bool) -> "Cluster":
        """Return the current state of the cluster that this process is connected to."""
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
        """Return whether any of these nodes has died since the snapshot."""
        return not self.node_ids <= {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def disconnect(self) -> None:
        """Close the connection if `connect` made it. A cluster that was joined keeps running."""
        if self.owned and ray.is_initialized():
            ray.shutdown()


def connect_as_configured(address: str | None) -> Cluster:
    """Call `connect` with `address`, or with RAY_ADDRESS if `address` is None and that is set.

    Raises like `connect`, and ConfigError for a bad environment variable.
    """
    environment = read_environment()
    if address is None and environment.ray_address is not None:
        return connect(environment.ray_address, field="RAY_ADDRESS")
    return connect(address)


def connect(address: str | None, *, field: str = "address") -> Cluster:
    """Use this process's connection to Ray; without one, join the cluster at `address`; without that, start Ray here.

    `field` is the name of the setting that held the address, for messages. Raises ConfigError if no cluster answers at
    `address` or this process is connected to another one; ClusterError if Ray cannot start.
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
            with _importing_torch(), _buffer_stderr() if address else nullcontext():
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({} if address else {"include_dashboard": False}),
                )
        except CANNOT_CONNECT as error:
            if address is None:
                raise ClusterError(f"Ray cannot start on this machine: {error}") from error
            raise ConfigError(field, address, _required_fix(error)) from error
    return Cluster.inspect(owned=owned)


@contextmanager
def _importing_torch() -> Iterator[None]:
    """Import torch, which every driver needs, in a thread while the body starts Ray: both take seconds, and Ray spends
    them in other processes."""
    importing = Thread(target=import_module, args=("latentmas_ray.transport.make",), name="import torch")
    importing.start()
    try:
        yield
    finally:
        importing.join()


def _is_current(address: str) -> bool:
    """Return whether this process is connected to the cluster at `address`. Compares ports: a host may have several
    names."""
    if address in ("auto", "local"):
        return True
    port = str(ray.get_runtime_context().gcs_address).rpartition(":")[2]
    return address.rpartition(":")[2] == port


@contextmanager
def _buffer_stderr() -> Iterator[None]:
    """Buffer stderr during the body and write it out only if the body succeeds.

    Ray's C++ layer prints the reason of a failed connection at every attempt and cannot be silenced by a setting; the
    raised error contains the reason.
    """
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


def _required_fix(error: Exception) -> str:
    """Return what a user must change after `ray.init` raised `error`; the reason is in the error's cause."""
    reason = f"{error!r} {error.__cause__!r}"
    if "AuthenticationError" in reason:
        return "RAY_AUTH_MODE and RAY_AUTH_TOKEN must be those of the cluster that answers there"
    if "No node info found" in reason:
        return "a Ray cluster answers there, but this machine must be one of its nodes; `ray job submit` runs it on one"
    return f"a Ray cluster must answer there, with the same RAY_AUTH_MODE and RAY_AUTH_TOKEN as here: {error}"


def _check_reachable(address: str, field: str) -> None:
    """Check the port quickly, since Ray itself would retry for many minutes. Names such as `auto` are left to Ray.

    Raises ConfigError naming `field`.
    """
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
    """Return whether the server speaks a protocol other than HTTP/2, which gRPC uses.

    A closed connection or a TLS alert proves nothing: a Ray that uses TLS may answer so.
    """
    connection.sendall(_HTTP2_HELLO)
    reply = b""
    while len(reply) < 4 and (more := connection.recv(64)):
        reply += more
    return bool(reply) and reply[3:4] != _HTTP2_SETTINGS and not reply.startswith(_TLS_ALERT)
