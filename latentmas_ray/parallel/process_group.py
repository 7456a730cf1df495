"""Process groups of torch.distributed: gloo between CPUs, NCCL between GPUs.

`RankGroup` is the group of one replica's ranks. transformers divides a model over the process-wide default group, so a
process belongs to one replica at a time. A `ProcessPair` is a group of two that send each other tensors, without global
state: a process can be in many pairs, and each can fail and be made again independently.
"""

import contextlib
import pickle
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but its types do not say so
from torch.distributed.distributed_c10d import Store

from latentmas_ray.errors import LatentMASError, LinkError, RunError, ShardError
from latentmas_ray.memory.spec import TPRank
from latentmas_ray.parallel.ranks import Ranks

T = TypeVar("T")
# A step of a forward takes far less; the others wait longest while rank 0 solves for W_a.
STEP_SECONDS = 600.0
PRODUCER, READER = 0, 1
BLOCK_BYTES = 64 * 2**20  # the time limit applies to each block, so that it does not depend on the segment's size


def open_store(host: str, *, timeout_seconds: float = STEP_SECONDS) -> TCPStore:
    """Start the store for a group's rendezvous at this process's address `host`; the others connect to `store.port`.
    The store must exist as long as the group."""
    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    # It is given a socket, because it would listen at all addresses otherwise.
    return TCPStore(
        host,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_seconds),
        master_listen_fd=listener.detach(),
    )


def find_store(
    host: str, port: int, *, timeout_seconds: float = STEP_SECONDS, error_kind: type[RunError] = ShardError
) -> TCPStore:
    """Connect to the store of another process. Raises `error_kind` if it does not answer."""
    try:
        return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_seconds))
    except RuntimeError as error:
        raise error_kind(f"the store at {host}:{port} does not answer: {first_line(error)}") from error


class RankGroup(Ranks):
    """`Ranks` over torch.distributed. One per process at a time; reads and writes no environment variables."""

    def __init__(self, store: TCPStore, shard: TPRank, *, timeout_seconds: float = STEP_SECONDS) -> None:
        """Wait for all ranks. `timeout_seconds` bounds every later step. Raises ShardError."""
        if dist.is_initialized():
            raise ShardError("this process is a rank of another replica already")
        self.shard = shard
        self._store = store  # must exist as long as the group
        self._collective_error: BaseException | None = None
        self._is_nested = False
        self._failed = ""
        # Messages between ranks use gloo on GPUs, too: they do not wait for a GPU's queue, and gloo detects a dead peer
        # at once.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(
                backend,
                store=store,
                rank=shard.rank,
                world_size=shard.world_size,
                timeout=timedelta(seconds=timeout_seconds),
            )
            dist.all_reduce(torch.zeros(1))  # gloo connects on first use: do it here
        except RuntimeError as error:
            raise self._fail(error) from error

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        if self._failed:
            raise ShardError(self._failed)
        try:
            yield
        except LatentMASError:
            raise
        except RuntimeError as error:  # gloo's errors have no specific class
            raise self._fail(error) from error

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        if self._is_nested:  # a rank that fails leaves the outer block and waits at its end
            yield
            return
        failure: Exception | None = None
        self._is_nested = True
        try:
            yield
        except ShardError:
            raise  # the group has failed
        except Exception as error:  # noqa: BLE001  the other ranks must fail too, whatever the error is
            failure = error
        finally:
            self._is_nested = False
        first_failed = torch.tensor([self.shard.world_size if failure is None else self.shard.rank])
        with self.collective():
            dist.all_reduce(first_failed, dist.ReduceOp.MIN)
            if int(first_failed) == self.shard.world_size:
                return
            received = self._broadcast_object(failure, source=int(first_failed))
        self._collective_error = failure if failure is not None else received
        raise self._collective_error

    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        with self.all_or_none():
            made = make() if self.shard.rank == 0 else None
        with self.collective():
            received: T = self._broadcast_object(made, source=0)
        return received

    def broadcast(self, numbers_N: Tensor) -> Tensor:
        numbers_N = numbers_N.cpu()
        with self.collective():
            dist.broadcast(numbers_N, src=0)
        return numbers_N

    def sum(self, numbers_N: Tensor) -> Tensor:
        numbers_N = numbers_N.cpu()
        with self.collective():
            dist.reduce(numbers_N, dst=0)  # not all_reduce: ranks may add up in another order
            dist.broadcast(numbers_N, src=0)
        return numbers_N

    def is_collective_error(self, error: BaseException) -> bool:
        agreed, self._collective_error = self._collective_error, None
        return error is agreed

    def abort(self) -> None:
        self._failed = self._failed or f"{self.shard} has left its group"
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):  # peers may have left already
                dist.destroy_process_group()

    def _fail(self, error: RuntimeError) -> ShardError:
        """Leave the group after a failed collective; return the error to raise."""
        reason = "a rank of the replica died, failed or timed out"
        self._failed = f"{self.shard} cannot continue: {first_line(error)} ({reason})"
        self.abort()
        return ShardError(self._failed)

    def _broadcast_object(self, value: Any, source: int) -> Any:
        box = [_picklable(value)]
        dist.broadcast_object_list(box, src=source, device=torch.device("cpu"))
        return box[0]


def _picklable(value: Any) -> Any:
    """The value; for an error that cannot be pickled, a RunError with its message."""
    if isinstance(value, BaseException):
        try:
            pickle.loads(pickle.dumps(value))
        except Exception:  # noqa: BLE001  the classes of other libraries may raise anything here
            return RunError(f"{type(value).__name__}: {value}")
    return value


class ProcessPair(ABC):
    """One side of a group of two. Tensors are received in the order in which they are sent.

    Every call returns within about the pair's time limit or raises LinkError; after that the pair cannot be used.
    """

    device: ClassVar[str]

    @abstractmethod
    def send(self, block: Tensor) -> None:
        """Send a flat uint8 tensor; returns when its memory may be reused."""

    @abstractmethod
    def receive(self, block: Tensor) -> None:
        """Fill a flat uint8 tensor; returns when it is filled."""

    @abstractmethod
    def close(self) -> None:
        """Close the pair without waiting for the peer."""


class GlooPair(ProcessPair):
    """A pair between CPUs, over TCP."""

    device: ClassVar[str] = "cpu"

    def __init__(self, store: Store, rank: int, host: str, timeout_seconds: float) -> None:
        """`host` is the address at which the peer reaches this process. Waits for the peer; raises LinkError."""
        self._peer, self._timeout = 1 - rank, timedelta(seconds=timeout_seconds)
        try:
            # The options set the address; the default is what the host's name resolves to.
            gloo: Any = dist.ProcessGroupGloo  # torch's type stubs lack most of it
            options = gloo._Options()
            options._devices = [gloo.create_device(hostname=host)]
            options._timeout = self._timeout
            options._threads = 1
            self._group: Any = gloo(store, rank, 2, options)
        except RuntimeError as error:
            raise LinkError(f"no group with the peer: {first_line(error)}") from error

    def send(self, block: Tensor) -> None:
        try:
            self._group.send([block], self._peer, 0).wait(self._timeout)
        except RuntimeError as error:
            raise LinkError(f"the peer received nothing: {first_line(error)}") from error

    def receive(self, block: Tensor) -> None:
        try:
            self._group.recv([block], self._peer, 0).wait(self._timeout)
        except RuntimeError as error:
            raise LinkError(f"nothing came from the peer: {first_line(error)}") from error

    def close(self) -> None:
        """Does nothing: the group ends with its last reference, a wait in another thread at its time limit."""


class NcclPair(ProcessPair):
    """A pair between two different GPUs."""

    device: ClassVar[str] = "cuda"

    def __init__(self, store: Store, rank: int, host: str, timeout_seconds: float) -> None:
        """The first transfer waits for the peer. NCCL chooses the address itself."""
        self._peer, self._timeout = 1 - rank, timedelta(seconds=timeout_seconds)
        self._device = torch.cuda.current_device()
        try:
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = self._timeout
            self._group: Any = dist.ProcessGroupNCCL(store, rank, 2, options)
        except RuntimeError as error:
            raise LinkError(f"no group with the peer: {first_line(error)}") from error

    def send(self, block: Tensor) -> None:
        self._move(block, sends=True)

    def receive(self, block: Tensor) -> None:
        self._move(block, sends=False)

    def _move(self, block: Tensor, *, sends: bool) -> None:
        # The current device is per thread; with blocking waits (see `env`) `wait` waits for the bytes.
        with torch.cuda.device(self._device):
            try:
                move = self._group.send if sends else self._group.recv
                move([block], self._peer, 0).wait(self._timeout)
                torch.cuda.current_stream().synchronize()
            except RuntimeError as error:
                raise LinkError(f"NCCL failed: {first_line(error)}") from error

    def close(self) -> None:
        """Abort the group; a shutdown would wait for a dead peer."""
        with contextlib.suppress(RuntimeError):  # it has failed already
            self._group.abort()


PAIRS: dict[str, type[ProcessPair]] = {"gloo": GlooPair, "nccl": NcclPair}


def split_blocks(body: Tensor) -> Iterator[Tensor]:
    """Split a flat tensor into the blocks that both sides use."""
    return iter(body.split(BLOCK_BYTES))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the library's stack trace."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
