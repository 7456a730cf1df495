"""The connection of a reader to a producer: a channel for requests, and a process pair that transfers tensors.

reader                                  producer
both show the run's key           ↔     (`handshake`)
kind of pair                      →
                                  ←     the store's address (`rendezvous`)
             both create the pair, each with its rank
buffer 17                         →
                                  ←     the number of bytes, or "gone"
             the bytes, block by block, through the pair
buffer 18 …

"""

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from typing import Any, TypeVar

import torch
from torch import Tensor

from latentmas_ray.authentication import RunKey
from latentmas_ray.errors import LinkError, TransferError
from latentmas_ray.parallel.process_group import PAIRS, PRODUCER, READER, ProcessPair, open_store, split_blocks
from latentmas_ray.transport.channel import Channel, StalledError, get_count
from latentmas_ray.transport.gpu.rendezvous import make_pair
from latentmas_ray.transport.handle_table import HandleTable
from latentmas_ray.transport.listener import Listener, ServerAddress, call

_POLL_SECONDS = 0.05  # how often a running transfer checks its peer
_GRACE_SECONDS = 1.0  # so that torch's own error, which says more, is raised first
T = TypeVar("T")


class GroupServer:
    """Sends the tensors of a handle table to readers; each connection has its own thread."""

    def __init__(
        self, kind: str, host: str, bodies: HandleTable[Tensor], timeout_seconds: float, key: RunKey | None = None
    ) -> None:
        """Listen at a free port of `host`, for processes that have `key` (by default only this one)."""
        self._kind, self._host, self._bodies, self._timeout_seconds = kind, host, bodies, timeout_seconds
        self._device = torch.cuda.current_device() if PAIRS[kind].device == "cuda" else None
        self._store = open_store(host, timeout_seconds=timeout_seconds) if kind == "nccl" else None
        self._listener = Listener(host, timeout_seconds, self._serve, key)
        self.address = self._listener.address

    def close(self) -> None:
        """Stop listening and close all connections, which wakes waiting readers. Safe to call twice."""
        self._listener.close()

    def _serve(self, channel: Channel, hello: dict[str, Any]) -> None:
        if hello.get("kind") != self._kind:
            return
        if self._device is not None:
            torch.cuda.set_device(self._device)
        port = 0 if self._store is None else self._store.port
        rendezvous = {"host": self._host, "port": port, "prefix": secrets.token_hex(8)}
        channel.send(**rendezvous)
        pair = make_pair(self._kind, PRODUCER, channel, rendezvous, self._host, self._timeout_seconds)
        try:
            while True:
                self._answer(channel, pair, channel.receive(without_limit=True))
        finally:
            pair.close()

    def _answer(self, channel: Channel, pair: ProcessPair, request: dict[str, Any]) -> None:
        body = self._bodies.get(get_count(request, "buffer"))
        if body is None:
            channel.send(gone=True)
            return
        channel.send(num_bytes=body.numel())
        for block in split_blocks(body):
            pair.send(block)


class GroupConnection:
    """A reader's connection to one producer; one transfer at a time. After a LinkError it cannot be used any more."""

    def __init__(
        self, kind: str, address: ServerAddress, host: str, timeout_seconds: float, key: RunKey | None = None
    ) -> None:
        """Connect; `host` is this process's address. Raises LinkError if the producer is gone or does not belong to
        the run of `key`."""
        self._timeout_seconds = timeout_seconds
        self._pair: ProcessPair | None = None
        self._channel = call(address, timeout_seconds, key, kind=kind)
        try:
            rendezvous = self._channel.receive()
            self._pair = make_pair(kind, READER, self._channel, rendezvous, host, timeout_seconds)
        except BaseException:
            self.close()
            raise

    def fetch(self, number: int, num_bytes: int) -> Tensor:
        """Return the bytes of a buffer in new memory. Raises LinkError, and TransferError if it was released."""
        assert self._pair is not None
        self._channel.send(buffer=number)
        answer = self._channel.receive()
        if answer.get("gone") is True:
            raise TransferError("the segment is gone: its producer has released it")
        if (found := get_count(answer, "num_bytes")) != num_bytes:
            raise LinkError(f"the producer has {found} bytes, its handle says {num_bytes}")
        body = torch.empty(num_bytes, dtype=torch.uint8, device=self._pair.device)
        pair = self._pair
        for block in split_blocks(body):
            # During a transfer the channel is silent; if not, the producer has failed or died.
            self._run_in_thread(lambda block=block: pair.receive(block))  # type: ignore[misc]
        return body

    def close(self) -> None:
        """Close the channel and the pair. Safe to call twice."""
        self._channel.close()
        if self._pair is not None:
            self._pair.close()

    def _run_in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in another thread, which cannot be interrupted; stop waiting for it when the producer is gone.

        An abandoned thread ends at its own time limit and holds its memory until then.
        """
        future = _start_thread(work)
        deadline = time.monotonic() + self._timeout_seconds + _GRACE_SECONDS
        while not wait_for([future], _POLL_SECONDS).done:
            if self._channel.is_lost():
                raise LinkError("the producer is gone")
            if time.monotonic() > deadline:
                raise StalledError(f"nothing came for {self._timeout_seconds:g} s")
        return future.result()


def _start_thread(work: Callable[[], T]) -> "Future[T]":
    future: Future[T] = Future()
    device = torch.cuda.current_device() if torch.cuda.is_available() and torch.cuda.is_initialized() else None

    def run() -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  raised where the result is awaited
            future.set_exception(error)

    threading.Thread(target=run, name="transport", daemon=True).start()
    return future
