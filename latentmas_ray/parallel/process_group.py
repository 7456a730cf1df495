"""The ranks of one replica as a group of processes: torch.distributed, gloo between CPUs and NCCL between GPUs.

transformers divides a model over the process-wide default group, so a process is in one replica at a time. Groups of
other kinds, like the pairs that move memory, have no part in that.
"""

import contextlib
import pickle
import socket
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but its types do not say so

from latentmas_ray.errors import LatentMASError, RunError, ShardError
from latentmas_ray.memory.spec import TPRank
from latentmas_ray.parallel.ranks import Ranks

T = TypeVar("T")
# One step of a forward takes far less. What takes long is rank 0's solving for W_a, while the others wait.
STEP_SECONDS = 600.0


def open_rendezvous(host: str, *, timeout_seconds: float = STEP_SECONDS) -> TCPStore:
    """Where the ranks find each other: made by rank 0 at its address `host`; `store.port` is what the others need. It
    must live as long as the group."""
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


def find_rendezvous(host: str, port: int, *, timeout_seconds: float = STEP_SECONDS) -> TCPStore:
    """The meeting that rank 0 has opened. Raises ShardError if nobody answers."""
    try:
        return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=timeout_seconds))
    except RuntimeError as error:
        raise ShardError(f"rank 0 does not answer at {host}:{port}: {_first_line(error)}") from error


class RankGroup(Ranks):
    """See `Ranks`. One at a time in a process; no environment variable is read or written."""

    def __init__(self, meeting: TCPStore, shard: TPRank, *, timeout_seconds: float = STEP_SECONDS) -> None:
        """Waits for all ranks. `timeout_seconds` bounds every step from here on. Raises ShardError."""
        if dist.is_initialized():
            raise ShardError("this process is a rank of another replica already")
        self.shard = shard
        self._meeting = meeting
        self._agreed: BaseException | None = None
        self._is_agreeing = False
        self._lost = ""
        # What ranks tell each other goes over gloo on GPUs, too: a message need not wait for a GPU's queue, and gloo
        # notices a dead peer at once.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(
                backend,
                store=meeting,
                rank=shard.rank,
                world_size=shard.of,
                timeout=timedelta(seconds=timeout_seconds),
            )
            dist.all_reduce(torch.zeros(1))  # gloo connects here, and not in the middle of something
        except RuntimeError as error:
            raise self._lose(error) from error

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        if self._lost:
            raise ShardError(self._lost)
        try:
            yield
        except LatentMASError:
            raise
        except RuntimeError as error:  # gloo's errors have no class of their own
            raise self._lose(error) from error

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        if self._is_agreeing:  # a rank that failed has left the outer block and waits for the others at its end
            yield
            return
        failure: Exception | None = None
        self._is_agreeing = True
        try:
            yield
        except ShardError:
            raise  # nobody is left to agree with
        except Exception as error:  # noqa: BLE001  whatever it is, the others must not go on without this rank
            failure = error
        finally:
            self._is_agreeing = False
        first_failed = torch.tensor([self.shard.of if failure is None else self.shard.rank])
        with self.collective():
            dist.all_reduce(first_failed, dist.ReduceOp.MIN)
            if int(first_failed) == self.shard.of:
                return
            told = self._broadcast(failure, source=int(first_failed))
        self._agreed = failure if failure is not None else told
        raise self._agreed

    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        with self.all_or_none():
            made = make() if self.shard.rank == 0 else None
        with self.collective():
            told: T = self._broadcast(made, source=0)
        return told

    def same(self, numbers_N: Tensor) -> Tensor:
        numbers_N = numbers_N.cpu()
        with self.collective():
            dist.broadcast(numbers_N, src=0)
        return numbers_N

    def is_collective_error(self, error: BaseException) -> bool:
        agreed, self._agreed = self._agreed, None
        return error is agreed

    def leave(self) -> None:
        self._lost = self._lost or f"{self.shard} has left its group"
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):  # its peers may be gone already
                dist.destroy_process_group()

    def _lose(self, error: RuntimeError) -> ShardError:
        """This rank is out of step with the others."""
        reason = "a rank of the replica is gone, failed or did not keep up"
        self._lost = f"{self.shard} cannot go on: {_first_line(error)} ({reason})"
        self.leave()
        return ShardError(self._lost)

    def _broadcast(self, value: Any, source: int) -> Any:
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


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
