"""Messages and bulk bytes between two processes over TCP: msgpack of bounded size, bounded waits, no pickle."""

import contextlib
import select
import socket
import struct
from typing import Any

import msgpack

from latentmas_ray.errors import LinkError

_LENGTH = struct.Struct("<I")
_MAX_BYTES = 64 * 2**10
_CHUNK_BYTES = 64 * 2**20  # bulk bytes that are sent within one time limit
_CONNECT_SECONDS = 10.0  # a reachable machine answers in milliseconds, even if the first packets are lost
_IDLE_SECONDS, _PROBE_SECONDS, _NUM_PROBES = 20, 5, 3  # after which a silent machine counts as lost


class StalledError(LinkError):
    """The peer may be alive but makes no progress."""


class Channel:
    """One connection. After a failure of any method it cannot be used any more."""

    def __init__(self, connection: socket.socket, timeout_seconds: float) -> None:
        """Methods wait at most `timeout_seconds` for progress of the peer, except where documented."""
        self._socket = connection
        self._timeout_seconds = timeout_seconds
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _NUM_PROBES)
        connection.settimeout(timeout_seconds)

    @classmethod
    def connect(cls, host: str, port: int, timeout_seconds: float) -> "Channel":
        """Connect to a listening process. Raises LinkError if none answers; the time limit is shorter than for a
        connected peer, because the caller does no other work meanwhile."""
        try:
            connection = socket.create_connection((host, port), min(_CONNECT_SECONDS, timeout_seconds))
            return cls(connection, timeout_seconds)
        except TimeoutError as error:
            raise StalledError(f"{host}:{port} does not answer") from error
        except OSError as error:
            raise LinkError(f"no process listens at {host}:{port} any more: {error.strerror or error}") from error

    def send(self, **message: Any) -> None:
        """Send one message. Raises LinkError."""
        packed = msgpack.packb(message)
        try:
            self._socket.sendall(_LENGTH.pack(len(packed)) + packed)
        except OSError as error:
            raise LinkError(f"the connection broke: {error}") from error

    def receive(self, *, without_limit: bool = False) -> dict[str, Any]:
        """Return the next message; `without_limit` waits for it as long as the connection exists. Raises LinkError."""
        try:
            if without_limit:
                self._socket.settimeout(None)
                select.select([self._socket], [], [])
                self._socket.settimeout(self._timeout_seconds)
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
            if length > _MAX_BYTES:
                raise LinkError(f"the peer announces a message of {length} bytes")
            message = msgpack.unpackb(self._read(length))
        except TimeoutError as error:
            raise StalledError(f"the peer did not answer for {self._timeout_seconds:g} s") from error
        except (OSError, ValueError, msgpack.UnpackException) as error:
            raise LinkError(f"the connection broke: {error}") from error
        if not isinstance(message, dict):
            raise LinkError("the peer uses another protocol")
        return message

    def send_bytes(self, bulk: memoryview) -> None:
        """Send bytes without a frame; the peer must know their number. Raises LinkError."""
        try:
            for first in range(0, len(bulk), _CHUNK_BYTES):
                self._socket.sendall(bulk[first : first + _CHUNK_BYTES])
        except TimeoutError as error:
            raise StalledError(f"the peer received nothing for {self._timeout_seconds:g} s") from error
        except OSError as error:
            raise LinkError(f"the connection broke: {error}") from error

    def receive_bytes(self, target: memoryview) -> None:
        """Fill `target` with what `send_bytes` sends. Raises LinkError."""
        try:
            while target:
                if (count := self._socket.recv_into(target)) == 0:
                    raise LinkError("the peer has closed the connection")
                target = target[count:]
        except TimeoutError as error:
            raise StalledError(f"nothing came for {self._timeout_seconds:g} s") from error
        except OSError as error:
            raise LinkError(f"the connection broke: {error}") from error

    def is_lost(self) -> bool:
        """Whether the peer has closed the connection. Valid only while no message is expected from it."""
        try:
            return bool(select.select([self._socket], [], [], 0)[0])
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        """Close the connection and wake all threads that wait for it, on both sides. Safe to call twice."""
        with contextlib.suppress(OSError):  # the peer closed it first
            self._socket.shutdown(socket.SHUT_RDWR)  # close alone does not wake a thread that waits
        self._socket.close()

    def _read(self, num_bytes: int) -> bytes:
        read = b""
        while len(read) < num_bytes:
            if not (more := self._socket.recv(num_bytes - len(read))):
                raise LinkError("the peer has closed the connection")
            read += more
        return read
