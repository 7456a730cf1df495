"""Where a process is asked for what it keeps: a port, and a thread for each who knows the token.

The token keeps out what comes to the wrong address, another run's reader for instance. It is no protection of what is
sent: nothing here is encrypted, so the network between the nodes must be trusted, as Ray's must.
"""

import contextlib
import secrets
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from latentmas_ray.errors import LinkError
from latentmas_ray.transport.channel import Channel


@dataclass(frozen=True)
class ServerAddress:
    """Where a producer's server is, and what it wants to be told."""

    host: str
    port: int
    token: bytes


class Listener:
    """Listens at a free port of one address of this machine."""

    def __init__(self, host: str, timeout_seconds: float, serve: Callable[[Channel, dict[str, Any]], None]) -> None:
        """`serve` gets a connection and what its peer said first; it is closed when `serve` returns or gives up with
        LinkError. Each runs in a thread of its own."""
        self._timeout_seconds, self._serve_peer = timeout_seconds, serve
        self._socket = socket.create_server((host, 0))
        self.address = ServerAddress(host, self._socket.getsockname()[1], secrets.token_bytes(16))
        self._channels: set[Channel] = set()
        threading.Thread(target=self._accept, name="transport", daemon=True).start()

    def close(self) -> None:
        """Readers that wait are told. Safe to call twice."""
        with contextlib.suppress(OSError):  # it is closed
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for channel in list(self._channels):
            channel.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(connection,), name="transport", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        channel = Channel(connection, self._timeout_seconds)
        self._channels.add(channel)
        try:
            hello = channel.receive()
            token = hello.get("token")
            if isinstance(token, bytes) and secrets.compare_digest(token, self.address.token):
                self._serve_peer(channel, hello)
        except LinkError:
            pass  # the peer is gone, or makes a new connection
        finally:
            self._channels.discard(channel)
            channel.close()


def call(address: ServerAddress, timeout_seconds: float, **hello: Any) -> Channel:
    """A connection to a listener. Raises LinkError if nobody is there."""
    channel = Channel.connect(address.host, address.port, timeout_seconds)
    try:
        channel.send(token=address.token, **hello)
    except BaseException:
        channel.close()
        raise
    return channel


LOOPBACK = "127.0.0.1"


def own_host() -> str:
    """The address of this node as Ray knows it; without Ray, one that only this machine's processes reach."""
    import ray  # takes a second, and only a transport between actors needs it

    if not ray.is_initialized():
        return LOOPBACK
    own = ray.get_runtime_context().get_node_id()
    return next((str(node["NodeManagerAddress"]) for node in ray.nodes() if node["NodeID"] == own), LOOPBACK)
