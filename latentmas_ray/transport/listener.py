"""A server for the readers of a run: one port, and a thread for each connection that has shown the run's key.

Until then a connection costs a descriptor and nothing else: one thread looks after all of them, they are bounded in
number, and each has one time limit for all that it has to say (`handshake`). Where there are too many, the host that
has most of them loses its oldest, so that unauthenticated peers only displace one another.
"""

import contextlib
import errno
import logging
import resource
import secrets
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from latentmas_ray.authentication import RunKey, process_key
from latentmas_ray.errors import LinkError
from latentmas_ray.transport.channel import Channel
from latentmas_ray.transport.handshake import IDENTITY_BYTES, ConnectionKeys, Examination

_MAX_PENDING = 64  # connections that have not shown the key; fewer where descriptors are scarce
_PENDING_SHARE = 8  # at most one in so many of a process's descriptors
_EXAMINATION_SECONDS = 10.0  # a reader needs two round trips
_BACKLOG = 512
_TICK_SECONDS = 0.5  # how often time limits are checked
_PAUSE_SECONDS = 0.05  # until another try, where the system lacks something
_IN_VAIN = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.EAGAIN})  # the peer has gone again
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerAddress:
    """The address of a producer's server, and its identity, which is no secret."""

    host: str
    port: int
    identity: bytes


@dataclass(eq=False)
class _Pending:
    """A connection whose peer has not shown the key."""

    connection: socket.socket
    host: str
    deadline: float  # seconds of the monotonic clock
    examination: Examination


class Listener:
    """Listens at a free port of one address of this machine."""

    def __init__(
        self,
        host: str,
        timeout_seconds: float,
        serve: Callable[[Channel, dict[str, Any]], None],
        key: RunKey | None = None,
    ) -> None:
        """`serve` is called with each connection and its first message, in its own thread; the connection is closed
        when `serve` returns or raises LinkError. Without `key` only this process can connect."""
        self._timeout_seconds, self._serve_peer, self._key = timeout_seconds, serve, key or process_key()
        self._socket = socket.create_server((host, 0), backlog=_BACKLOG)
        self._socket.setblocking(False)
        self.address = ServerAddress(host, self._socket.getsockname()[1], secrets.token_bytes(IDENTITY_BYTES))
        self._channels: set[Channel] = set()
        self._pending: dict[_Pending, None] = {}  # the oldest first
        self._closed = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        threading.Thread(target=self._look_after, name="transport", daemon=True).start()

    def close(self) -> None:
        """Stop listening and close all connections, which wakes waiting readers. Safe to call twice."""
        self._closed.set()
        with contextlib.suppress(OSError):  # it is already closed
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()
        for channel in list(self._channels):
            channel.close()

    def _look_after(self) -> None:
        """Accept and examine connections until `close`."""
        while not self._closed.is_set():
            for ready, _ in self._selector.select(_TICK_SECONDS):
                if ready.data is None:
                    self._accept()
                elif ready.data in self._pending:  # it may have lost its place just now
                    self._examine(ready.data)
            now = time.monotonic()
            for pending in [one for one in self._pending if one.deadline < now]:
                self._drop(pending)
        for pending in list(self._pending):
            self._drop(pending)
        self._selector.close()

    def _accept(self) -> None:
        try:
            connection, peer = self._socket.accept()
        except OSError as error:
            if self._closed.is_set() or error.errno in _IN_VAIN:
                return
            # Most often there is no descriptor or no memory left, which passes. Strangers give theirs back.
            self._make_room()
            self._closed.wait(_PAUSE_SECONDS)
            return
        while len(self._pending) >= max_pending():
            self._make_room()
        connection.setblocking(False)
        deadline = time.monotonic() + min(self._timeout_seconds, _EXAMINATION_SECONDS)
        pending = _Pending(connection, str(peer[0]), deadline, Examination(self._key, self.address.identity))
        try:
            self._selector.register(connection, selectors.EVENT_READ, pending)
        except OSError:  # as for `accept`
            connection.close()
            return
        self._pending[pending] = None

    def _make_room(self) -> None:
        """Drop the oldest connection of the host that has most."""
        if self._pending:
            (host, _), *_ = Counter(one.host for one in self._pending).most_common(1)
            self._drop(next(one for one in self._pending if one.host == host))

    def _examine(self, pending: _Pending) -> None:
        try:
            received = pending.connection.recv(pending.examination.num_missing)
            if not received:
                raise LinkError("the peer has closed the connection")
            answer, keys = pending.examination.add(received)
            if answer:
                pending.connection.send(answer)  # the first bytes of a connection: there is room for them
        except BlockingIOError:
            return
        except (OSError, LinkError):
            self._drop(pending)
            return
        if keys is not None:
            self._admit(pending, keys)

    def _admit(self, pending: _Pending, keys: ConnectionKeys) -> None:
        """Serve a peer of the run in a thread of its own."""
        del self._pending[pending]
        self._selector.unregister(pending.connection)
        channel: Channel | None = None
        try:
            channel = Channel(pending.connection, self._timeout_seconds, keys)
            self._channels.add(channel)
            threading.Thread(target=self._serve, args=(channel,), name="transport", daemon=True).start()
        except (OSError, RuntimeError) as error:  # the peer is gone, or the system has no thread left
            _log.warning("a reader is not served: %s", error)
            if channel is not None:
                self._channels.discard(channel)
            pending.connection.close()

    def _drop(self, pending: _Pending) -> None:
        del self._pending[pending]
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(pending.connection)
        pending.connection.close()

    def _serve(self, channel: Channel) -> None:
        try:
            if self._closed.is_set():
                return
            self._serve_peer(channel, channel.receive())
        except LinkError:
            pass  # the peer is gone or makes a new connection
        finally:
            self._channels.discard(channel)
            channel.close()


def max_pending() -> int:
    """How many connections may wait to show the key: more would take the descriptors that a process needs itself."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_PENDING if soft == resource.RLIM_INFINITY else max(4, min(_MAX_PENDING, soft // _PENDING_SHARE))


def call(address: ServerAddress, timeout_seconds: float, key: RunKey | None = None, **hello: Any) -> Channel:
    """Connect to a listener and send `hello` once both sides have shown the key. Raises LinkError if none answers."""
    host, port, identity = address.host, address.port, address.identity
    channel = Channel.connect(host, port, identity, timeout_seconds, key or process_key())
    try:
        channel.send(**hello)
    except BaseException:
        channel.close()
        raise
    return channel


LOOPBACK = "127.0.0.1"


def own_host() -> str:
    """This node's address in the Ray cluster; without Ray, the loopback address."""
    import ray  # takes a second, and only a transport between actors needs it

    if not ray.is_initialized():
        return LOOPBACK
    own = ray.get_runtime_context().get_node_id()
    return next((str(node["NodeManagerAddress"]) for node in ray.nodes() if node["NodeID"] == own), LOOPBACK)
