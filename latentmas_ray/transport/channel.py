"""Messages between two processes over TCP, and bulk between them: small msgpack of bounded size, every wait bounded.
Nothing is unpickled."""

import contextlib
import select
import socket
import struct
from typing import Any

import msgpack

from latentmas_ray.errors import LinkError

_LENGTH = struct.Struct("<I")
_MAX_BYTES = 64 * 2**10
_CHUNK_BYTES = 64 * 2**20  # of bulk that are sent within one time limit
_CONNECT_SECONDS = 10.0  # a machine that is there answers in milliseconds, also when the first packets are lost
_IDLE_SECONDS, _PROBE_SECONDS, _NUM_PROBES = 20, 5, 3  # after which a machine that says nothing any more counts as gone


class StalledError(LinkError):
    """The peer is there, or may be, and does not go on."""


class Channel:
    """One connection. A failure of any method leaves it of no use."""

    def __init__(self, connection: socket.socket, timeout_seconds: float) -> None:
        """No method waits longer than that for the peer to go on, unless it says so."""
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
        """Raises LinkError if nobody is there. Who waits for a machine that is gone does no other work, so it is given
        up sooner than a peer that was connected."""
        try:
            connection = socket.create_connection((host, port), min(_CONNECT_SECONDS, timeout_seconds))
            return cls(connection, timeout_seconds)
        except TimeoutError as error:
            raise StalledError(f"{host}:{port} does not answer") from error
        except OSError as error:
            raise LinkError(f"nobody is at {host}:{port} any more: {error.strerror or error}") from error

    def send(self, **message: Any) -> None:
        """Raises LinkError."""
        packed = msgpack.packb(message)
        try:
            self._socket.sendall(_LENGTH.pack(len(packed)) + packed)
        except OSError as error:
            raise LinkError(f"the connection broke: {error}") from error

    def receive(self, *, without_limit: bool = False) -> dict[str, Any]:
        """The next message; `without_limit` waits for it as long as the connection lives. Raises LinkError."""
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
            raise LinkError("the peer speaks another language")
        return message

    def send_bytes(self, bulk: memoryview) -> None:
        """Bytes without a frame, of which the peer knows how many they are. Raises LinkError."""
        try:
            for first in range(0, len(bulk), _CHUNK_BYTES):
                self._socket.sendall(bulk[first : first + _CHUNK_BYTES])
        except TimeoutError as error:
            raise StalledError(f"the peer took nothing for {self._timeout_seconds:g} s") from error
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
        """Whether the peer is gone or has given up. To be asked only while it has nothing to say."""
        try:
            return bool(select.select([self._socket], [], [], 0)[0])
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        """Whoever waits for this peer, here or there, is told. Safe to call twice."""
        with contextlib.suppress(OSError):  # the peer was first
            self._socket.shutdown(socket.SHUT_RDWR)  # close alone does not wake a thread that waits
        self._socket.close()

    def _read(self, num_bytes: int) -> bytes:
        read = b""
        while len(read) < num_bytes:
            if not (more := self._socket.recv(num_bytes - len(read))):
                raise LinkError("the peer has closed the connection")
            read += more
        return read
