"""Messages and bulk bytes between two processes of a run over TCP: msgpack of bounded size, bounded waits, no pickle.

Messages are encrypted and authenticated with the keys of the connection (`handshake`), each with its number, so that
none can be altered, repeated or left out. Bulk bytes are sent as they are: their segment's tags protect them. A field
of a message may still hold anything: `get_field` and `get_count` look at it.
"""

import contextlib
import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgpack

from latentmas_ray.authentication import RunKey, make_cipher
from latentmas_ray.errors import LinkError
from latentmas_ray.transport.handshake import ConnectionKeys, introduce, receive_exactly

T = TypeVar("T")
_MAX_COUNT = 2**63 - 1
_LENGTH = struct.Struct("<I")
_MAX_BYTES = 64 * 2**10
_CHUNK_BYTES = 64 * 2**20  # bulk bytes that are sent within one time limit
_CONNECT_SECONDS = 10.0  # a reachable machine answers in milliseconds, even if the first packets are lost
_NUM_ATTEMPTS = 3  # a listener that too many connect to may drop a connection before its proof
_IDLE_SECONDS, _PROBE_SECONDS, _NUM_PROBES = 20, 5, 3  # after which a silent machine counts as lost
_REFUSED_SECONDS = 5.0  # after connections to a host were ended


class StalledError(LinkError):
    """The peer may be alive but makes no progress."""


class _OutgoingConnections:
    """This process's connections to others, so that those to a lost host can be ended from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: WeakKeyDictionary[socket.socket, str] = WeakKeyDictionary()
        self._refused_until: dict[str, float] = {}  # by host; seconds of the monotonic clock

    def connect(self, host: str, port: int, timeout_seconds: float) -> socket.socket:
        """Connect like `socket.create_connection`. Raises OSError, also when the connections to `host` are ended."""
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with self._lock:
            if time.monotonic() < self._refused_until.get(host, 0.0):
                raise ConnectionAbortedError(errno.ECONNABORTED, "its node does not answer")
            connection = socket.socket(family, kind, protocol)
            self._hosts[connection] = host
        try:
            connection.settimeout(timeout_seconds)
            connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection

    def end(self, host: str) -> None:
        with self._lock:
            self._refused_until[host] = time.monotonic() + _REFUSED_SECONDS
            ended = [connection for connection, other in self._hosts.items() if other == host]
        for connection in ended:
            with contextlib.suppress(OSError):  # it is closed
                connection.shutdown(socket.SHUT_RDWR)  # wakes a thread that connects, sends or receives


_OUTGOING = _OutgoingConnections()


def end_connections(host: str) -> None:
    """End the connections of this process to `host`, which does not answer, and attempts to make them: they raise
    LinkError at once. For some seconds no others are made, so that another attempt does not wait."""
    _OUTGOING.end(host)


class _MessageCipher:
    """Encrypts or decrypts the messages of one direction, in their order."""

    def __init__(self, key: bytes) -> None:
        self._cipher, self._number = make_cipher(key), 0

    def seal(self, message: bytes) -> bytes:
        return self._cipher.encrypt(self._next_nonce(), message, None)

    def open(self, sealed: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(self._next_nonce(), sealed, None)
        except InvalidTag as error:
            raise LinkError("a message was altered on its way") from error

    def _next_nonce(self) -> bytes:
        self._number += 1
        return self._number.to_bytes(12, "big")


class Channel:
    """One connection whose ends have shown each other that they belong to the run. After a failure of any method it
    cannot be used any more."""

    def __init__(self, connection: socket.socket, timeout_seconds: float, keys: ConnectionKeys) -> None:
        """Methods wait at most `timeout_seconds` for a message or 64 MiB of the peer, except where documented."""
        self._socket = connection
        self._timeout_seconds = timeout_seconds
        self._sent, self._received = _MessageCipher(keys.send), _MessageCipher(keys.receive)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _NUM_PROBES)
        connection.settimeout(timeout_seconds)

    @classmethod
    def connect(cls, host: str, port: int, identity: bytes, timeout_seconds: float, key: RunKey) -> "Channel":
        """Connect to the listening process that has this identity, and check that it belongs to the run. Raises
        LinkError if none answers; the time limit to connect is shorter than for a connected peer, because the caller
        does no other work meanwhile."""
        deadline = time.monotonic() + timeout_seconds
        for attempts_left in reversed(range(_NUM_ATTEMPTS)):
            try:
                connection = _OUTGOING.connect(host, port, min(_CONNECT_SECONDS, timeout_seconds))
            except TimeoutError as error:
                raise StalledError(f"{host}:{port} does not answer") from error
            except OSError as error:
                raise LinkError(f"no process listens at {host}:{port} any more: {error.strerror or error}") from error
            try:
                return cls(connection, timeout_seconds, introduce(connection, key, identity, deadline))
            except TimeoutError as error:
                connection.close()
                raise StalledError(f"the peer did not answer for {timeout_seconds:g} s") from error
            except OSError as error:
                connection.close()
                if not attempts_left:
                    raise LinkError(f"the connection broke: {error}") from error
            except BaseException:
                connection.close()
                raise
        raise AssertionError("the last attempt returns or raises")

    def send(self, **message: Any) -> None:
        """Send one message. Raises LinkError."""
        sealed = self._sent.seal(msgpack.packb(message))
        try:
            self._socket.settimeout(self._timeout_seconds)
            self._socket.sendall(_LENGTH.pack(len(sealed)) + sealed)
        except OSError as error:
            raise LinkError(f"the connection broke: {error}") from error

    def receive(self, *, without_limit: bool = False) -> dict[str, Any]:
        """Return the next message; `without_limit` waits for its beginning as long as the connection exists. Raises
        LinkError."""
        try:
            if without_limit:
                _wait_for_bytes(self._socket, None)
            deadline = time.monotonic() + self._timeout_seconds
            (length,) = _LENGTH.unpack(receive_exactly(self._socket, _LENGTH.size, deadline))
            if length > _MAX_BYTES:
                raise LinkError(f"the peer announces a message of {length} bytes")
            message = msgpack.unpackb(self._received.open(receive_exactly(self._socket, length, deadline)))
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
            self._socket.settimeout(self._timeout_seconds)
            for first in range(0, len(bulk), _CHUNK_BYTES):
                self._socket.sendall(bulk[first : first + _CHUNK_BYTES])
        except TimeoutError as error:
            raise StalledError(f"the peer received nothing for {self._timeout_seconds:g} s") from error
        except OSError as error:
            raise LinkError(f"the connection broke: {error}") from error

    def receive_bytes(self, target: memoryview) -> None:
        """Fill `target` with what `send_bytes` sends. Raises LinkError."""
        try:
            for first in range(0, len(target), _CHUNK_BYTES):
                self._fill(target[first : first + _CHUNK_BYTES])
        except TimeoutError as error:
            raise StalledError(f"nothing came for {self._timeout_seconds:g} s") from error
        except OSError as error:
            raise LinkError(f"the connection broke: {error}") from error

    def is_lost(self) -> bool:
        """Whether the peer has closed the connection. Valid only while no message is expected from it."""
        try:
            return _wait_for_bytes(self._socket, 0)
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        """Close the connection and wake all threads that wait for it, on both sides. Safe to call twice."""
        with contextlib.suppress(OSError):  # the peer closed it first
            self._socket.shutdown(socket.SHUT_RDWR)  # close alone does not wake a thread that waits
        self._socket.close()

    def _fill(self, target: memoryview) -> None:
        deadline = time.monotonic() + self._timeout_seconds
        while target:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            if (count := self._socket.recv_into(target)) == 0:
                raise LinkError("the peer has closed the connection")
            target = target[count:]


def get_field(message: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """The field of this name and exactly this type. Raises LinkError."""
    value = message.get(name)
    if type(value) is not kind:
        raise LinkError(f"the peer uses another protocol: {name} is {type(value).__name__}, not {kind.__name__}")
    return value


def get_count(message: Mapping[str, Any], name: str) -> int:
    """A field that is a whole number from 0 to 2^63 - 1. Raises LinkError."""
    count = get_field(message, name, int)
    if not 0 <= count <= _MAX_COUNT:
        raise LinkError(f"the peer uses another protocol: {name} is {count}")
    return count


def _wait_for_bytes(connection: socket.socket, milliseconds: int | None) -> bool:
    """Whether bytes, or the end of the connection, came in this time. Unlike `select` for any number of descriptors."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(milliseconds))
