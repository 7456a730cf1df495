"""Two processes that send each other tensors: a group of two in torch.distributed, without its global state.

A process can be in many pairs, each of which can be lost and made again by itself.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from latentmas_ray.transport.channel import LinkError

PRODUCER, READER = 0, 1
CHUNK_BYTES = 64 * 2**20  # the time limit is for each of these, so that it need not grow with the segment


class Pair(ABC):
    """One side of a pair. What is sent is received in the same order.

    Every call returns within about the time limit of the pair or raises LinkError; after that the pair is of no use.
    """

    device: ClassVar[str]

    @abstractmethod
    def send(self, chunk: Tensor) -> None:
        """Send a flat uint8 tensor; returns when its bytes are not needed any more."""

    @abstractmethod
    def receive(self, chunk: Tensor) -> None:
        """Fill a flat uint8 tensor; returns when it is filled."""

    @abstractmethod
    def close(self) -> None:
        """Let go, also of a peer that does not answer."""


class GlooPair(Pair):
    """Between CPUs, over TCP."""

    device: ClassVar[str] = "cpu"

    def __init__(self, store: Store, rank: int, host: str, timeout_seconds: float) -> None:
        """`host` is the address of this process that its peer can reach. Waits for the peer; raises LinkError."""
        self._peer, self._timeout = 1 - rank, timedelta(seconds=timeout_seconds)
        try:
            # The options say which address is used; without them it is whatever the host's name resolves to.
            gloo: Any = dist.ProcessGroupGloo  # torch's own description of its types leaves out most of it
            options = gloo._Options()
            options._devices = [gloo.create_device(hostname=host)]
            options._timeout = self._timeout
            options._threads = 1
            self._group: Any = gloo(store, rank, 2, options)
        except RuntimeError as error:
            raise LinkError(f"no group with the peer: {first_line(error)}") from error

    def send(self, chunk: Tensor) -> None:
        try:
            self._group.send([chunk], self._peer, 0).wait(self._timeout)
        except RuntimeError as error:
            raise LinkError(f"the peer took nothing any more: {first_line(error)}") from error

    def receive(self, chunk: Tensor) -> None:
        try:
            self._group.recv([chunk], self._peer, 0).wait(self._timeout)
        except RuntimeError as error:
            raise LinkError(f"nothing came any more: {first_line(error)}") from error

    def close(self) -> None:
        """The group ends with its last reference; a wait that goes on in another thread ends at its limit."""


class NcclPair(Pair):
    """Between GPUs, each of which only one of the two may use."""

    device: ClassVar[str] = "cuda"

    def __init__(self, store: Store, rank: int, host: str, timeout_seconds: float) -> None:
        """The peer is waited for with the first transfer. Which address NCCL takes is its own decision."""
        self._peer, self._timeout = 1 - rank, timedelta(seconds=timeout_seconds)
        self._device = torch.cuda.current_device()
        try:
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = self._timeout
            self._group: Any = dist.ProcessGroupNCCL(store, rank, 2, options)
        except RuntimeError as error:
            raise LinkError(f"no group with the peer: {first_line(error)}") from error

    def send(self, chunk: Tensor) -> None:
        self._move(chunk, sends=True)

    def receive(self, chunk: Tensor) -> None:
        self._move(chunk, sends=False)

    def _move(self, chunk: Tensor, *, sends: bool) -> None:
        # The current device is a thread's own, and with blocking waits (see `env`) the wait is for the bytes.
        with torch.cuda.device(self._device):
            try:
                move = self._group.send if sends else self._group.recv
                move([chunk], self._peer, 0).wait(self._timeout)
                torch.cuda.current_stream().synchronize()
            except RuntimeError as error:
                raise LinkError(f"NCCL gave up: {first_line(error)}") from error

    def close(self) -> None:
        """Abort: a peer that is gone would be waited for otherwise."""
        with contextlib.suppress(RuntimeError):  # it had given up already
            self._group.abort()


PAIRS: dict[str, type[Pair]] = {"gloo": GlooPair, "nccl": NcclPair}


def chunks(body: Tensor) -> Iterator[Tensor]:
    """A flat tensor in the parts that both sides agree on."""
    return iter(body.split(CHUNK_BYTES))


def first_line(error: BaseException) -> str:
    """What an error says, without the stack of the library below."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
