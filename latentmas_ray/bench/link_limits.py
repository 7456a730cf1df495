"""Measures the limit of a link: memcpy within a machine, plain TCP between two, and the offset of their clocks."""

import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import numpy as np

from latentmas_ray.authentication import RunKey
from latentmas_ray.errors import LinkError, RunError
from latentmas_ray.transport.handshake import IDENTITY_BYTES, examine, introduce

NUM_THREADS = 2  # also the number of TCP streams
_TIMEOUT_SECONDS = 60.0
_PAUSE_SECONDS = 0.05
_IDENTITY = bytes(IDENTITY_BYTES)  # one receiver for each key
_SOCKET_BYTES = 8 * 2**20
_NUM_PINGS = 50
_REQUEST = struct.Struct("<QQ")  # offset and number of bytes that follow; 0 bytes only ask for the clock
_CLOCK = struct.Struct("<d")


class Buffers:
    """Two buffers whose pages have all been touched, to measure memcpy between them."""

    def __init__(self, num_bytes: int) -> None:
        self.source = np.random.default_rng(0).integers(0, 256, num_bytes, dtype=np.uint8)
        self.target = np.ones(num_bytes, dtype=np.uint8)
        self._pool = ThreadPoolExecutor(NUM_THREADS)

    def copy_seconds(self) -> float:
        """Return the seconds of one memcpy of the buffer, with one thread or two, whichever is faster."""
        return min(self._seconds(1), self._seconds(NUM_THREADS))

    def close(self) -> None:
        self._pool.shutdown()

    def _seconds(self, num_threads: int) -> float:
        begin = time.perf_counter()
        if num_threads == 1:
            np.copyto(self.target, self.source)
        else:
            list(self._pool.map(self._copy, _shares(len(self.source), num_threads)))
        return time.perf_counter() - begin

    def _copy(self, share: tuple[int, int]) -> None:
        first, num_bytes = share
        np.copyto(self.target[first : first + num_bytes], self.source[first : first + num_bytes])


class TcpReceiver:
    """Receives bytes over TCP into a buffer and answers with the time when all were there.

    It listens at one address of this machine and serves only connections that show the key.
    """

    def __init__(self, host: str, key: RunKey) -> None:
        self._key, self._closed = key, threading.Event()
        self._target = memoryview(bytearray())
        self._server = socket.create_server((host, 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def set_target(self, target: np.ndarray) -> None:
        """Receive into `target` from now on."""
        self._target = target.data

    def close(self) -> None:
        self._closed.set()
        self._server.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed, or the system lacks something for a moment
                self._closed.wait(_PAUSE_SECONDS)
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, LinkError):  # the sender sees that the connection was closed, and raises
            _tune(connection)
            examine(connection, self._key, _IDENTITY, time.monotonic() + _TIMEOUT_SECONDS)
            connection.settimeout(None)
            request = bytearray(_REQUEST.size)
            while True:
                _receive(connection, memoryview(request))
                first, num_bytes = _REQUEST.unpack(request)
                if first + num_bytes > len(self._target):
                    return
                _receive(connection, self._target[first : first + num_bytes])
                connection.sendall(_CLOCK.pack(time.time()))


class TcpSender:
    """Sends bytes to a `TcpReceiver` over `NUM_THREADS` connections."""

    def __init__(self, host: str, port: int, key: RunKey) -> None:
        """Connect. Raises RunError if that fails."""
        self._pool = ThreadPoolExecutor(NUM_THREADS)
        self._connections = []
        try:
            for _ in range(NUM_THREADS):
                connection = socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS)
                self._connections.append(connection)
                _tune(connection)
                introduce(connection, key, _IDENTITY, time.monotonic() + _TIMEOUT_SECONDS)
                connection.settimeout(_TIMEOUT_SECONDS)
        except (OSError, LinkError) as error:
            self.close()
            raise RunError(f"no TCP connection to {host}, port {port}, of another node: {error}") from error

    def clock(self) -> tuple[float, float]:
        """Return how many seconds the receiver's clock is ahead of ours, and the error of that.

        Taken from the fastest of many round trips: the receiver read its clock between our two readings.
        """
        best = (float("inf"), 0.0)
        for _ in range(_NUM_PINGS):
            begin = time.time()
            theirs = self._send(self._connections[0], memoryview(b""), 0)
            end = time.time()
            best = min(best, (end - begin, theirs - (begin + end) / 2))
        round_trip, offset = best
        return offset, round_trip / 2

    def seconds(self, source: np.ndarray, num_streams: int | None = None) -> float:
        """Return the seconds until all bytes have arrived, over so many streams, at most `NUM_THREADS`; None: over one
        or two, whichever is faster."""
        if num_streams is not None:
            return self._seconds(source, num_streams)
        return min(self._seconds(source, 1), self._seconds(source, NUM_THREADS))

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        self._pool.shutdown()

    def _seconds(self, source: np.ndarray, num_streams: int) -> float:
        view = source.data
        begin = time.perf_counter()
        if num_streams == 1:
            self._send(self._connections[0], view, 0)
        else:
            shares = _shares(len(view), num_streams)
            parts = [view[first : first + num_bytes] for first, num_bytes in shares]
            list(self._pool.map(self._send, self._connections, parts, [first for first, _ in shares]))
        return time.perf_counter() - begin

    def _send(self, connection: socket.socket, part: memoryview, first: int) -> float:
        """Send and wait for the answer: the receiver's clock when all bytes were there."""
        receipt = bytearray(_CLOCK.size)
        try:
            connection.sendall(_REQUEST.pack(first, len(part)))
            connection.sendall(part)
            _receive(connection, memoryview(receipt))
        except OSError as error:
            raise RunError(f"the TCP connection between two nodes broke: {error}") from error
        return float(_CLOCK.unpack(receipt)[0])


def _shares(num_bytes: int, count: int) -> list[tuple[int, int]]:
    """Split `num_bytes` into nearly equal parts; return (first, number of bytes) of each."""
    edges = [num_bytes * index // count for index in range(count + 1)]
    return [(first, stop - first) for first, stop in pairwise(edges)]


def _tune(connection: socket.socket) -> None:
    connection.settimeout(_TIMEOUT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        connection.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)


def _receive(connection: socket.socket, target: memoryview) -> None:
    """Fill `target`. Raises ConnectionError if the peer closes the connection before."""
    while target.nbytes:
        num_bytes = connection.recv_into(target)
        if num_bytes == 0:
            raise ConnectionError("the peer closed the connection")
        target = target[num_bytes:]
