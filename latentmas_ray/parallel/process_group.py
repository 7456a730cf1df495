"""Groups of processes in torch.distributed: gloo between CPUs, NCCL between GPUs.

`RankGroup` holds the ranks of one replica. transformers divides a model over the process-wide default group, so a
process is in one replica at a time. A `ProcessPair` is a group of two that send each other tensors, without any global
state: a process can be in many of them, each of which can be lost and made again by itself.
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
# One step of a forward takes far less. What takes long is rank 0's solving for W_a, while the others wait.
STEP_SECONDS = 600.0
PRODUCER, READER = 0, 1
BLOCK_BYTES = 64 * 2**20  # the time limit is for each of these, so that it need not grow with the segment


def open_store(host: str, *, timeout_seconds: float = STEP_SECONDS) -> TCPStore:
    """Where the processes of a group find each other: made by the first of them at its address `host`; `store.port` is
    what the others need. It must live as long as the group."""
    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    # It gets a socket, for by itself it would listen at every address.
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
    """The store that another process has opened. Raises `error_kind` if it does not answer."""
    try:
        return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_seconds))
    except RuntimeError as error:
        raise error_kind(f"the store at {host}:{port} does not answer: {first_line(error)}") from error


class RankGroup(Ranks):
    """See `Ranks`. One at a time in a process; no environment variable is read or written."""

    def __init__(self, store: TCPStore, shard: TPRank, *, timeout_seconds: float = STEP_SECONDS) -> None:
        """Waits for all ranks. `timeout_seconds` bounds every step from here on. Raises ShardError."""
        if dist.is_initialized():
            raise ShardError("this process is a rank of another replica already")
        self.shard = shard
        self._store = store  # which the group needs as long as it lives
        self._collective_error: BaseException | None = None
        self._is_nested = False
        self._failed = ""
        # What ranks tell each other goes over gloo on GPUs, too: a message need not wait for a GPU's queue, and gloo
        # notices a dead peer at once.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(
                backend,
                store=store,
                rank=shard.rank,
                world_size=shard.world_size,
                timeout=timedelta(seconds=timeout_seconds),
            )
            dist.all_reduce(torch.zeros(1))  # gloo connects here, and not in the middle of something
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
        except RuntimeError as error:  # gloo's errors have no class of their own
            raise self._fail(error) from error

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        if self._is_nested:  # a rank that failed has left the outer block and waits for the others at its end
            yield
            return
        failure: Exception | None = None
        self._is_nested = True
        try:
            yield
        except ShardError:
            raise  # nobody is left to agree with
        except Exception as error:  # noqa: BLE001  whatever it is, the others must not go on without this rank
            failure = error
        finally:
            self._is_nested = False
        first_failed = torch.tensor([self.shard.world_size if failure is None else self.shard.rank])
        with self.collective():
            dist.all_reduce(first_failed, dist.ReduceOp.MIN)
            if int(first_failed) == self.shard.world_size:
                return
            told = self._broadcast_object(failure, source=int(first_failed))
        self._collective_error = failure if failure is not None else told
        raise self._collective_error

    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        with self.all_or_none():
            made = make() if self.shard.rank == 0 else None
        with self.collective():
            told: T = self._broadcast_object(made, source=0)
        return told

    def broadcast(self, numbers_N: Tensor) -> Tensor:
        numbers_N = numbers_N.cpu()
        with self.collective():
            dist.broadcast(numbers_N, src=0)
        return numbers_N

    def is_collective_error(self, error: BaseException) -> bool:
        agreed, self._collective_error = self._collective_error, None
        return error is agreed

    def abort(self) -> None:
        self._failed = self._failed or f"{self.shard} has left its group"
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):  # its peers may be gone already
                dist.destroy_process_group()

    def _fail(self, error: RuntimeError) -> ShardError:
        """This rank is out of step with the others."""
        reason = "a rank of the replica is gone, failed or did not keep up"
        self._failed = f"{self.shard} cannot go on: {first_line(error)} ({reason})"
        self.abort()
        return ShardError(self._failed)

    def _broadcast_object(self, value: Any, source: int) -> Any:
        box = [_picklable(value)]
        dist.broadcast_object_list(box, src=source, device=torch.device("cpu"))
        return box[0]


def _picklable(value: Any) -> Any:
    """The value, or of an error that cannot travel what it says."""
    if isinstance(value, BaseException):
        try:
            pickle.loads(pickle.dumps(value))
        except Exception:  # noqa: BLE001  the classes of other libraries may raise anything here
            return RunError(f"{type(value).__name__}: {value}")
    return value


class ProcessPair(ABC):
    """One side of a pair. What is sent is received in the same order.

    Every call returns within about the time limit of the pair or raises LinkError; after that the pair is of no use.
    """

    device: ClassVar[str]

    @abstractmethod
    def send(self, block: Tensor) -> None:
        """Send a flat uint8 tensor; returns when its bytes are not needed any more."""

    @abstractmethod
    def receive(self, block: Tensor) -> None:
        """Fill a flat uint8 tensor; returns when it is filled."""

    @abstractmethod
    def close(self) -> None:
        """Let go, also of a peer that does not answer."""


class GlooPair(ProcessPair):
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

    def send(self, block: Tensor) -> None:
        try:
            self._group.send([block], self._peer, 0).wait(self._timeout)
        except RuntimeError as error:
            raise LinkError(f"the peer took nothing any more: {first_line(error)}") from error

    def receive(self, block: Tensor) -> None:
        try:
            self._group.recv([block], self._peer, 0).wait(self._timeout)
        except RuntimeError as error:
            raise LinkError(f"nothing came any more: {first_line(error)}") from error

    def close(self) -> None:
        """The group ends with its last reference; a wait that goes on in another thread ends at its limit."""


class NcclPair(ProcessPair):
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

    def send(self, block: Tensor) -> None:
        self._move(block, sends=True)

    def receive(self, block: Tensor) -> None:
        self._move(block, sends=False)

    def _move(self, block: Tensor, *, sends: bool) -> None:
        # The current device is a thread's own, and with blocking waits (see `env`) the wait is for the bytes.
        with torch.cuda.device(self._device):
            try:
                move = self._group.send if sends else self._group.recv
                move([block], self._peer, 0).wait(self._timeout)
                torch.cuda.current_stream().synchronize()
            except RuntimeError as error:
                raise LinkError(f"NCCL gave up: {first_line(error)}") from error

    def close(self) -> None:
        """Abort: a peer that is gone would be waited for otherwise."""
        with contextlib.suppress(RuntimeError):  # it had given up already
            self._group.abort()


PAIRS: dict[str, type[ProcessPair]] = {"gloo": GlooPair, "nccl": NcclPair}


def split_blocks(body: Tensor) -> Iterator[Tensor]:
    """A flat tensor in the parts that both sides agree on."""
    return iter(body.split(BLOCK_BYTES))


def first_line(error: BaseException) -> str:
    """What an error says, without the stack of the library below."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
