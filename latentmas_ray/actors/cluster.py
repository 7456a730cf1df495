"""Joins a Ray cluster, or starts one on this machine; translates Ray's connection errors."""

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from threading import Thread

import ray
from ray.util import client

from latentmas_ray.actors.errors import CANNOT_CONNECT
from latentmas_ray.config.address import RAY_CLIENT, describe_other_service, split_address
from latentmas_ray.env import read_environment, silence_unhandled_ray_errors
from latentmas_ray.errors import ClusterError, ConfigError
from latentmas_ray.placement import WHOLE_CLUSTER, ClusterPart, NodeResources

_PROBE_SECONDS = 5.0
_STORE_SHARE = 0.5  # of the object store that segments in flight may use, so that nothing spills
_ACCELERATOR = "accelerator_type:"  # the resource by which Ray tells the kind of a node's GPUs
# The first bytes of an HTTP/2 client: the connection preface and an empty SETTINGS frame. The server's first frame is a
# SETTINGS frame too; a frame starts with three bytes of length and one byte of type.
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HTTP2_SETTINGS = bytes([4])
_TLS_ALERT = bytes([21, 3])
_MAX_SOCKET_PATH = 107  # bytes, of a Unix socket's path on Linux
# The longest path of a socket that Ray makes below its temporary folder.
_SOCKET_PATH = "/ray/session_2000-01-01_00-00-00_000000_0000000/sockets/plasma_store.99"
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A snapshot of a connected Ray cluster: its live nodes, and whether this process owns the connection."""

    owned: bool
    nodes: tuple[NodeResources, ...]
    node_ids: frozenset[str]
    store_bytes: Mapping[str, float]  # size of each node's object store
    # IP address and port of each node's raylet, as far as Ray tells them.
    addresses: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    without: Set[str] = frozenset()  # nodes that were left out
    part: ClusterPart = WHOLE_CLUSTER  # what this driver has of the cluster: the nodes are that of them

    @classmethod
    def inspect(
        cls,
        *,
        owned: bool,
        without: Set[str] = frozenset(),
        part: ClusterPart = WHOLE_CLUSTER,
    ) -> "Cluster":
        """Return the current state of the cluster that this process is connected to; `without` are nodes that have
        ended although Ray may still list them. `part` is what this driver has of it."""
        found = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in without}
        alive = {node_id: node["Resources"] for node_id, node in found.items()}
        own = (part.of_node(_resources_of(node_id, resources)) for node_id, resources in alive.items())
        return cls(
            owned=owned,
            nodes=tuple(node for node in own if node is not None),
            node_ids=frozenset(alive),
            store_bytes={name: one.get("object_store_memory", 0.0) / part.of for name, one in alive.items()},
            addresses={
                name: (str(node["NodeManagerAddress"]), int(node["NodeManagerPort"]))
                for name, node in found.items()
                if node.get("NodeManagerAddress") and node.get("NodeManagerPort")
            },
            without=without,
            part=part,
        )

    def inspect_again(self) -> "Cluster":
        """Return the current state of the same cluster, without the nodes that were left out."""
        return Cluster.inspect(owned=self.owned, without=self.without, part=self.part)

    def bytes_in_flight(self, used: Collection[str]) -> int:
        """Return the bytes that segments in flight may use on these nodes: a share of their object stores.

        Each counts like the smallest, as it is unknown which actor will produce a segment.
        """
        smallest = min(self.store_bytes.get(node, 0.0) for node in used)
        return int(len(used) * smallest * _STORE_SHARE)

    def has_lost_nodes(self) -> bool:
        """Return whether any of these nodes has died since the snapshot."""
        return not self.node_ids <= {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def disconnect(self) -> None:
        """Close the connection if `connect` made it. A cluster that was joined keeps running."""
        if self.owned and ray.is_initialized():
            ray.shutdown()


def _resources_of(node: str, resources: Mapping[str, float]) -> NodeResources:
    return NodeResources(
        name=node,
        num_gpus=resources.get("GPU", 0.0),
        num_cpus=resources.get("CPU", 0.0),
        gpu_name=_accelerator(resources),
    )


def _accelerator(resources: Mapping[str, float]) -> str:
    """Return the kind of a node's GPUs as Ray names it, such as H100; empty if it does not know it."""
    return next((name.removeprefix(_ACCELERATOR) for name in resources if name.startswith(_ACCELERATOR)), "")


def connect_as_configured(address: str | None, part: ClusterPart = WHOLE_CLUSTER) -> Cluster:
    """Call `connect` with `address`, or with RAY_ADDRESS if `address` is None and that is set; return `part` of the
    cluster.

    Raises like `connect`, and ConfigError for a bad environment variable.
    """
    environment = read_environment()
    if address is None and environment.ray_address is not None:
        cluster = connect(environment.ray_address, field="RAY_ADDRESS")
    else:
        cluster = connect(address)
    return cluster if part == WHOLE_CLUSTER else replace(cluster, part=part).inspect_again()


def connect(address: str | None, *, field: str = "address") -> Cluster:
    """Use this process's connection to Ray; without one, join the cluster at `address`; without that, start Ray here.

    `field` is the name of the setting that held the address, for messages. Raises ConfigError if no cluster answers at
    `address` or this process is connected to another one; ClusterError if Ray cannot start.
    """
    if _uses_ray_client():
        raise ConfigError(field, address or "a connection of Ray Client", RAY_CLIENT)
    owned = not ray.is_initialized()
    if address is not None and (owned or not _is_current(address)):
        _check_reachable(address, field)
    if not owned and address is not None and field == "address" and not _is_current(address):
        told = f"this process uses the Ray cluster at {current_address()}; leave it out, or use that"
        raise ConfigError(field, address, told)
    if owned:
        silence_unhandled_ray_errors()
        try:
            with _importing_torch(), _keeping_sigterm_handler(), _buffer_stderr() if address else nullcontext():
                ray.init(
                    address=address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({} if address else {"include_dashboard": False, "_temp_dir": _temp_folder()}),
                )
        except CANNOT_CONNECT as error:
            if address is None:
                raise ClusterError(f"Ray cannot start on this machine: {error}") from error
            raise ConfigError(field, address, _required_fix(error)) from error
    return Cluster.inspect(owned=owned)


def current_address() -> str:
    """Return HOST:PORT of the cluster that this process is connected to, by which others of this machine join it."""
    return str(ray.get_runtime_context().gcs_address)


def _uses_ray_client() -> bool:
    """Return whether this process has called `ray.init("ray://…")`."""
    return bool(client.ray.is_connected())


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


@contextmanager
def _keeping_sigterm_handler() -> Iterator[None]:
    """Restore this process's handler of SIGTERM after the body starts Ray, which replaces it: Ray's C++ layer would
    print a stack and abort. A process without a handler keeps Ray's."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _temp_folder() -> str | None:
    """Return the folder for Ray's session if Ray's own choice does not work, else None.

    Ray uses RAY_TMPDIR or TMPDIR as they are. The paths of its Unix sockets must be short, and sites set TMPDIR to long
    folders of jobs. Raises ClusterError if no short folder is writable.
    """
    name, chosen = read_environment().temp_folder
    if chosen is None or (why := _obstacle(chosen)) is None:
        return None
    for folder in _SHORT_FOLDERS:
        if _obstacle(folder) is None:
            _log.warning("%s=%s: %s; Ray's files of this run are in %s", name, chosen, why, folder)
            return str(Path(folder, "ray"))
    raise ClusterError(f"Ray cannot start on this machine: {name}={chosen}: {why}; set it to a short, writable folder")


def _obstacle(folder: str) -> str | None:
    """Return why Ray cannot use this temporary folder; None if it can."""
    if not Path(folder).is_absolute():
        return "it is not an absolute path"
    if len(os.fsencode(folder.rstrip("/") + _SOCKET_PATH)) > _MAX_SOCKET_PATH:
        return "it is too long for Ray's Unix sockets"
    try:
        existing = next(path for path in (Path(folder), *Path(folder).parents) if path.exists())
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    if not existing.is_dir():
        return f"{existing} is not a folder"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"{existing} is not writable"


def _is_current(address: str) -> bool:
    """Return whether this process is connected to the cluster at `address`. Compares ports: a host may have several
    names."""
    if address in ("auto", "local"):
        return True
    port = current_address().rpartition(":")[2]
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
    try:
        host_and_port = split_address(address)
    except ValueError as error:
        raise ConfigError(field, address, str(error)) from None
    if host_and_port is None:
        return
    try:
        with socket.create_connection(host_and_port, timeout=_PROBE_SECONDS) as connection:
            is_other = _is_another_service(connection)
    except OSError as error:
        raise ConfigError(field, address, f"a Ray cluster must answer there: {error.strerror or error}") from error
    if is_other:
        raise ConfigError(field, address, describe_other_service(host_and_port[1]))


def _is_another_service(connection: socket.socket) -> bool:
    """Return whether the server speaks a protocol other than HTTP/2, which gRPC uses.

    A closed connection or a TLS alert proves nothing: a Ray that uses TLS may answer so.
    """
    reply = b""
    with suppress(ConnectionError):
        connection.sendall(_HTTP2_HELLO)
        while len(reply) < 4 and (more := connection.recv(64)):
            reply += more
    return bool(reply) and reply[3:4] != _HTTP2_SETTINGS and not reply.startswith(_TLS_ALERT)
