"""A server that accepts connections from readers: one port, and one thread per connection with the right token.

The token rejects connections to a wrong address, for example from another run's reader. It does not protect the data:
nothing is encrypted, so the network between the nodes must be trusted, as for Ray itself.
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
    """The address of a producer's server, and the token that it expects."""

    host: str
    port: int
    token: bytes


class Listener:
    """Listens at a free port of one address of this machine."""

    def __init__(self, host: str, timeout_seconds: float, serve: Callable[[Channel, dict[str, Any]], None]) -> None:
        """`serve` is called with each connection and its first message, in its own thread; the connection is closed
        when `serve` returns or raises LinkError."""
        self._timeout_seconds, self._serve_peer = timeout_seconds, serve
        self._socket = socket.create_server((host, 0))
        self.address = ServerAddress(host, self._socket.getsockname()[1], secrets.token_bytes(16))
        self._channels: set[Channel] = set()
        threading.Thread(target=self._accept, name="transport", daemon=True).start()

    def close(self) -> None:
        """Stop listening and close all connections, which wakes waiting readers. Safe to call twice."""
        with contextlib.suppress(OSError):  # it is already closed
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
            pass  # the peer is gone or makes a new connection
        finally:
            self._channels.discard(channel)
            channel.close()


def call(address: ServerAddress, timeout_seconds: float, **hello: Any) -> Channel:
    """Connect to a listener and send the token with `hello`. Raises LinkError if none answers."""
    channel = Channel.connect(address.host, address.port, timeout_seconds)
    try:
        channel.send(token=address.token, **hello)
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
