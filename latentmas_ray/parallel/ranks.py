"""The tensor-parallel ranks of one replica: their collective steps and common decisions.

Every rank runs the same turn on its own shard, step by step. A collective step waits for all ranks, so a rank must not
decide anything alone: values that could differ between ranks are broadcast before they are used.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from torch import Tensor

from latentmas_ray.memory.spec import WHOLE, TPRank

T = TypeVar("T")
_END = object()


class Ranks(ABC):
    """This process's rank in its replica. All ranks make the same calls in the same order.

    Every call returns within about the group's time limit or raises ShardError; after that the replica cannot be used,
    and every further call raises ShardError at once.
    """

    shard: TPRank

    @abstractmethod
    def collective(self) -> AbstractContextManager[None]:
        """Context of a step that all ranks compute together. A RuntimeError inside becomes a ShardError, and this rank
        leaves the group, so that the other ranks fail instead of waiting."""

    @abstractmethod
    def all_or_none(self) -> AbstractContextManager[None]:
        """Context of a local step that may fail on some ranks. All-or-none: if any rank raises, every rank raises (its
        own error, or the lowest failing rank's). Nested uses are no-ops."""

    @abstractmethod
    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        """Return rank 0's `make()` on all ranks; only rank 0 calls it. The value must be picklable. An error of `make`
        is raised on all ranks."""

    @abstractmethod
    def broadcast(self, numbers_N: Tensor) -> Tensor:
        """Return rank 0's numbers on all ranks, on the CPU."""

    @abstractmethod
    def sum(self, numbers_N: Tensor) -> Tensor:
        """Return the sum of all ranks' numbers, on the CPU: the same to the last bit on all ranks."""

    @abstractmethod
    def is_collective_error(self, error: BaseException) -> bool:
        """Whether `all_or_none` has just raised this error on all ranks, which therefore stay in step. Call it once: it
        drops the stored error, whose frames hold memory."""

    @abstractmethod
    def abort(self) -> None:
        """Leave the group; the next step of the other ranks fails. Safe to call twice."""

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Iterate over items, `all_or_none` for each; every rank must have the same number."""
        iterator = iter(items)
        while True:
            with self.all_or_none():
                item = next(iterator, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]  # mypy cannot tell the end from an item


class Alone(Ranks):
    """The single rank of a model that is not divided."""

    shard = WHOLE

    def collective(self) -> AbstractContextManager[None]:
        return nullcontext()

    def all_or_none(self) -> AbstractContextManager[None]:
        return nullcontext()

    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        return make()

    def broadcast(self, numbers_N: Tensor) -> Tensor:
        return numbers_N.cpu()

    def sum(self, numbers_N: Tensor) -> Tensor:
        return numbers_N.cpu()

    def is_collective_error(self, error: BaseException) -> bool:
        return True

    def abort(self) -> None:
        """There is no group."""

    def each(self, items: Iterable[T]) -> Iterator[T]:
        return iter(items)


ALONE = Alone()


def whole(weight: Tensor) -> Tensor:
    """The whole weight, gathered from all ranks if it is divided; a collective step."""
    from torch.distributed.tensor import DTensor  # takes a second to import, and comes with transformers anyway

    full: Tensor = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return full


def own_part(weight: Tensor) -> Tensor:
    """This rank's part of a weight."""
    from torch.distributed.tensor import DTensor

    local: Tensor = weight.to_local() if isinstance(weight, DTensor) else weight
    return local
