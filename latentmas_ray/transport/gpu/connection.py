"""The way from a reader to a producer: a connection for requests, and beside it the pair through which tensors come.

reader                                  producer
token, kind of pair               →     the token must be its own
                                  ←     where they meet (`rendezvous`)
             both make the pair, each with its rank
buffer 17                         →
                                  ←     how many bytes, or that it has none such
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

from latentmas_ray.errors import LinkError, TransferError
from latentmas_ray.parallel.process_group import PAIRS, PRODUCER, READER, ProcessPair, open_store, split_blocks
from latentmas_ray.transport.channel import Channel, StalledError
from latentmas_ray.transport.gpu.rendezvous import make_pair
from latentmas_ray.transport.handle_table import HandleTable
from latentmas_ray.transport.listener import Listener, ServerAddress, call

_POLL_SECONDS = 0.05  # how often a transfer that lasts looks after its peer
_GRACE_SECONDS = 1.0  # for an error of the library below, which says more, to come before our own
T = TypeVar("T")


class GroupServer:
    """Sends what is kept in this process to readers that ask for it, each from a thread of its own."""

    def __init__(self, kind: str, host: str, kept: HandleTable[Tensor], timeout_seconds: float) -> None:
        """Listens at a free port of `host` from now on."""
        self._kind, self._host, self._kept, self._timeout_seconds = kind, host, kept, timeout_seconds
        self._device = torch.cuda.current_device() if PAIRS[kind].device == "cuda" else None
        self._store = open_store(host, timeout_seconds=timeout_seconds) if kind == "nccl" else None
        self._listener = Listener(host, timeout_seconds, self._serve)
        self.address = self._listener.address

    def close(self) -> None:
        """Readers that wait are told. Safe to call twice."""
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

    def _answer(self, channel: Channel, pair: ProcessPair, request: dict[str, object]) -> None:
        number = request.get("buffer")
        body = self._kept.get(number) if isinstance(number, int) else None
        if body is None:
            channel.send(gone=True)
            return
        channel.send(num_bytes=body.numel())
        for block in split_blocks(body):
            pair.send(block)


class GroupConnection:
    """A reader's way to one producer; one transfer at a time. After a LinkError it is of no use."""

    def __init__(self, kind: str, address: ServerAddress, host: str, timeout_seconds: float) -> None:
        """`host` is this process's own address. Raises LinkError if the producer is gone."""
        self._timeout_seconds = timeout_seconds
        self._pair: ProcessPair | None = None
        self._channel = call(address, timeout_seconds, kind=kind)
        try:
            rendezvous = self._channel.receive()
            self._pair = make_pair(kind, READER, self._channel, rendezvous, host, timeout_seconds)
        except BaseException:
            self.close()
            raise

    def fetch(self, number: int, num_bytes: int) -> Tensor:
        """The bytes of a buffer, in fresh memory. Raises LinkError, and TransferError where it was released."""
        assert self._pair is not None
        self._channel.send(buffer=number)
        answer = self._channel.receive()
        if answer.get("gone"):
            raise TransferError("the segment is gone: its producer has released it")
        if answer.get("num_bytes") != num_bytes:
            raise LinkError(f"the producer has {answer.get('num_bytes')} bytes, its handle says {num_bytes}")
        body = torch.empty(num_bytes, dtype=torch.uint8, device=self._pair.device)
        pair = self._pair
        for block in split_blocks(body):
            # While a block is on its way the channel is silent; if it is not, the producer has given up or died.
            self._run_in_thread(lambda block=block: pair.receive(block))  # type: ignore[misc]
        return body

    def close(self) -> None:
        """The producer is told. Safe to call twice."""
        self._channel.close()
        if self._pair is not None:
            self._pair.close()

    def _run_in_thread(self, work: Callable[[], T]) -> T:
        """Do this in another thread, where nothing can interrupt it, and give it up when the producer is gone.

        What is given up ends at its own limit; until then it keeps the memory that it writes to.
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
        except BaseException as error:  # noqa: BLE001  whoever waits raises it
            future.set_exception(error)

    threading.Thread(target=run, name="transport", daemon=True).start()
    return future
