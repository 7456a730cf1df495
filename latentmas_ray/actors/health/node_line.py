"""A TCP connection to a node, over which nothing is sent: its operating system shows that the node lives.

Both ends of the keep-alive are kernels. So a node whose processes are busy, stopped, or hold Python's interpreter lock
answers, and a driver that was stopped itself has missed nothing: its kernel has asked meanwhile.
"""

import errno
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

_IDLE_SECONDS, _PROBE_SECONDS = 2, 2  # when the kernel asks first, and again
_NUM_PROBES = 100  # that may be unanswered until the kernel gives up, long after we have
# The fields of Linux' `struct tcp_info` that are read: the first eight bytes, then 32-bit numbers.
_TCP_INFO = struct.Struct("=8B13I")
_STATE, _RETRANSMITS, _PROBES, _LAST_ACK_MS = 0, 2, 3, 20
_ESTABLISHED, _SYN_SENT = 1, 2
_REFUSED = frozenset({errno.ECONNREFUSED})
_ENDED = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})
_MAX_RECEIVED = 2**16


class LineState(Enum):
    """OPENING → OPEN → ENDED; an attempt to open may also end REFUSED or UNREACHABLE."""

    OPENING = "opening"  # the other side has not answered yet
    OPEN = "open"
    ENDED = "ended"  # by the other side, which may just not want a connection that says nothing
    REFUSED = "refused"  # the machine answers, and no process listens there
    UNREACHABLE = "unreachable"  # no machine answers


@dataclass(frozen=True)
class LineReading:
    """The state of a line, and what its kernel knows of the other one."""

    state: LineState
    silent_seconds: float = 0.0  # since the other kernel answered last; only of an OPEN line
    num_unanswered: int = 0  # times that our kernel has asked since then


class NodeLine(Protocol):
    """What is watched of a node."""

    @property
    def is_local(self) -> bool:
        """Whether it leads to this machine."""

    def read(self) -> LineReading:
        """Return the present state; never waits."""

    def close(self) -> None:
        """Close it. Safe to call twice."""


class TcpLine:
    """A line to a listening port of a node. What the other side sends is dropped."""

    def __init__(self, host: str, port: int) -> None:
        """Start to connect; `host` is an IP address. Raises OSError if it is none, or if the system has no socket."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        family, kind, protocol, _, address = found[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setblocking(False)
        for level, option, value in (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_SECONDS),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _NUM_PROBES),
        ):
            self._socket.setsockopt(level, option, value)
        self._error = self._socket.connect_ex(address)
        if self._error == errno.EINPROGRESS:
            self._error = 0

    @property
    def is_local(self) -> bool:
        """Whether it leads to this machine; False while it is not open."""
        try:
            return bool(self._socket.getsockname()[0] == self._socket.getpeername()[0])
        except OSError:
            return False

    def read(self) -> LineReading:
        """Return the present state; never waits."""
        try:
            self._error = self._error or self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if self._error:
                return LineReading(_state_of(self._error))
            info = _TCP_INFO.unpack(self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
            if info[_STATE] == _SYN_SENT:
                return LineReading(LineState.OPENING, num_unanswered=info[_RETRANSMITS])
            if info[_STATE] != _ESTABLISHED or self._is_ended():
                return LineReading(LineState.ENDED)
        except OSError as error:
            return LineReading(_state_of(error.errno or errno.ECONNRESET))
        return LineReading(LineState.OPEN, info[_LAST_ACK_MS] / 1000, info[_PROBES])

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self._socket.close()

    def _is_ended(self) -> bool:
        """Drop what has come; return whether the other side has closed the connection."""
        with suppress(BlockingIOError):
            return not self._socket.recv(_MAX_RECEIVED)
        return False


def can_watch() -> bool:
    """Whether this system tells what its kernel knows of a connection, in the form that is read here."""
    return sys.platform == "linux"


def _state_of(error: int) -> LineState:
    if error in _REFUSED:
        return LineState.REFUSED
    return LineState.ENDED if error in _ENDED else LineState.UNREACHABLE
