"""Bytes over several parallel TCP connections: one alone does not saturate a fast link.
    reader                                   producer
    both show the run's key              ↔   (`handshake`)                        on every connection, once
    buffer b, machine m                  →
                                         ←   the number of bytes; or "gone"; or the address of a copy on machine m
    buffer b, first i, count n           →                                        on every connection, for its part
                                         ←   n; then the bytes
    copied b, machine m, address         →   is sent to other readers on machine m

So the second reader on a machine finds the copy of the first, and checks its tags like those of the original.
"""

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

from torch import Tensor

from latentmas_ray.authentication import RunKey
from latentmas_ray.errors import LinkError, TransferError
from latentmas_ray.transport.channel import Channel, get_count, get_field
from latentmas_ray.transport.listener import Listener, ServerAddress, call
from latentmas_ray.transport.shared_memory.buffer_store import BufferStore, released_error
from latentmas_ray.transport.shared_memory.memfd import MemfdAddress

MAX_STREAMS = 4
_MAX_COPIES = 4096  # of one buffer, one for each machine
_LARGE_BYTES = 2**20  # larger bodies are split over all connections


class StreamServer:
    """Sends the buffers of a store to readers; each connection has its own thread."""

    def __init__(self, host: str, store: BufferStore, timeout_seconds: float, key: RunKey | None = None) -> None:
        """Listen at a free port of `host`, for processes that have `key` (by default only this one)."""
        self._store = store
        self._lock = threading.Lock()
        self._copies: dict[bytes, dict[str, MemfdAddress]] = {}  # by token and machine
        self._listener = Listener(host, timeout_seconds, self._serve, key)
        self.address = self._listener.address

    def drop_copies(self, token: bytes) -> None:
        """Forget the copies of a buffer that was released."""
        with self._lock:
            self._copies.pop(token, None)

    def close(self) -> None:
        """Stop listening and close all connections, which wakes waiting readers. Safe to call twice."""
        self._listener.close()

    def _serve(self, channel: Channel, _hello: Mapping[str, Any]) -> None:
        while True:
            request = channel.receive(without_limit=True)
            if "copied" in request:
                self._note_copy(request)
                continue
            token = get_field(request, "buffer", bytes)
            with self._store.using(token) as body:
                if body is None:
                    channel.send(gone=True)
                elif "machine" in request:
                    self._send_status(channel, token, body, get_field(request, "machine", str))
                else:
                    _send_part(channel, body, request)

    def _send_status(self, channel: Channel, token: bytes, body: Tensor, machine: str) -> None:
        with self._lock:
            copy = self._copies.get(token, {}).get(machine)
        channel.send(num_bytes=body.numel(), copy=None if copy is None else copy.to_message())

    def _note_copy(self, request: Mapping[str, Any]) -> None:
        token = get_field(request, "copied", bytes)
        address = MemfdAddress.from_message(get_field(request, "address", dict))
        with self._store.using(token) as body, self._lock:
            copies = self._copies.setdefault(token, {}) if body is not None else {}
            if len(copies) < _MAX_COPIES:
                copies[address.machine] = address


class StreamConnection:
    """A reader's connections to one producer; one transfer at a time. After a LinkError it cannot be used any more."""

    def __init__(self, address: ServerAddress, timeout_seconds: float, key: RunKey | None = None) -> None:
        """Connect. Raises LinkError if the producer is gone or does not belong to the run of `key`."""
        self._channels: list[Channel] = []
        self._pool = ThreadPoolExecutor(MAX_STREAMS, "transport")
        try:
            for _ in range(num_streams()):
                self._channels.append(call(address, timeout_seconds, key))
        except BaseException:
            self.close()
            raise

    def find_copy(self, token: bytes, machine: str, num_bytes: int) -> MemfdAddress | None:
        """The address of a copy on this machine; None if there is none. Raises LinkError, and TransferError if the
        bytes were released."""
        self._channels[0].send(buffer=token, machine=machine)
        answer = self._channels[0].receive()
        if answer.get("gone") is True:
            raise released_error()
        if (found := get_count(answer, "num_bytes")) != num_bytes:
            raise LinkError(f"the producer has {found} bytes, its handle says {num_bytes}")
        if answer.get("copy") is None:
            return None
        copy = MemfdAddress.from_message(get_field(answer, "copy", dict))
        return copy if copy.num_bytes == num_bytes else None

    def fetch(self, token: bytes, target: Tensor) -> None:
        """Fill a flat uint8 tensor. Raises like `find_copy`."""
        view = target.numpy().data
        count = len(self._channels) if len(view) >= _LARGE_BYTES else 1
        edges = [len(view) * index // count for index in range(count + 1)]
        parts = [
            self._pool.submit(_receive_part, channel, token, first, view[first:end])
            for channel, (first, end) in zip(self._channels, pairwise(edges), strict=False)
        ]
        try:
            for part in parts:
                part.result()
        except BaseException as error:
            # No thread may write to the target after this has returned. An error that the peer reports ends every part;
            # if a connection broke, the others are closed.
            if isinstance(error, TransferError) and not isinstance(error, LinkError):
                wait(parts)
            else:
                self.close()
            raise

    def report_copy(self, token: bytes, address: MemfdAddress) -> None:
        """Report that this machine has a copy now. Raises LinkError."""
        self._channels[0].send(copied=token, address=address.to_message())

    def close(self) -> None:
        """Close all connections. Safe to call twice."""
        for channel in self._channels:
            channel.close()
        self._pool.shutdown()


def num_streams() -> int:
    """Connections to one producer: at most one per core."""
    return max(1, min(MAX_STREAMS, os.cpu_count() or 1))


def _send_part(channel: Channel, body: Tensor, request: Mapping[str, Any]) -> None:
    first, count = get_count(request, "first"), get_count(request, "count")
    if first + count > body.numel():
        raise LinkError("the peer requests bytes beyond the end of the buffer")
    channel.send(count=count)
    channel.send_bytes(body.numpy().data[first : first + count])


def _receive_part(channel: Channel, token: bytes, first: int, target: memoryview) -> None:
    channel.send(buffer=token, first=first, count=len(target))
    answer = channel.receive()
    if answer.get("gone") is True:
        raise released_error()
    if get_count(answer, "count") != len(target):
        raise LinkError("the peer sends another number of bytes than was asked for")
    channel.receive_bytes(target)
