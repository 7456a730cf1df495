"""The ranks of one replica, as a model sees them: what they must do together, and what they may do each by itself.

Every rank runs the same turn on its own shard, step by step. A step that all take part in waits for all of them, so a
rank must never decide anything alone: what could differ between ranks is told to all before it is used.
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
    """This process's place among the ranks of its replica. All ranks make the same calls in the same order.

    Every call returns within about the time limit of the group or raises ShardError; after that the replica is of no
    use, and every further call raises ShardError at once.
    """

    shard: TPRank

    @abstractmethod
    def collective(self) -> AbstractContextManager[None]:
        """Around what all ranks compute together. A RuntimeError inside becomes a ShardError: this rank has not done
        what the others wait for, whatever the reason, and they are told by its leaving."""

    @abstractmethod
    def all_or_none(self) -> AbstractContextManager[None]:
        """Around what each rank does by itself and what may fail on one of them. All go on or none does: where it
        failed the error is raised as it is, on the other ranks the first failed rank's is. One inside another leaves
        it to the outer one."""

    @abstractmethod
    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0, for all; the others do not call it. It must be picklable. Raises what it
        raises, on all ranks."""

    @abstractmethod
    def broadcast(self, numbers_N: Tensor) -> Tensor:
        """Rank 0's numbers, for all, on the CPU."""

    @abstractmethod
    def is_collective_error(self, error: BaseException) -> bool:
        """Whether this is the error that `all_or_none` has just raised: all ranks know of it and are still in step. To
        be asked once, or it is kept, and all that its frames hold."""

    @abstractmethod
    def abort(self) -> None:
        """End this rank's part in the group; the others' next step fails. Safe to call twice."""

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """The items, of which every rank has as many; `all_or_none` on each."""
        iterator = iter(items)
        while True:
            with self.all_or_none():
                item = next(iterator, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]  # mypy cannot tell the end from an item


class Alone(Ranks):
    """The only rank of a model that is here as a whole."""

    shard = WHOLE

    def collective(self) -> AbstractContextManager[None]:
        return nullcontext()

    def all_or_none(self) -> AbstractContextManager[None]:
        return nullcontext()

    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        return make()

    def broadcast(self, numbers_N: Tensor) -> Tensor:
        return numbers_N.cpu()

    def is_collective_error(self, error: BaseException) -> bool:
        return True

    def abort(self) -> None:
        """There is no group."""

    def each(self, items: Iterable[T]) -> Iterator[T]:
        return iter(items)


ALONE = Alone()


def whole(weight: Tensor) -> Tensor:
    """All of a weight, brought here from all ranks if it is divided: they call this at the same time."""
    from torch.distributed.tensor import DTensor  # takes a second to import, and comes with transformers anyway

    full: Tensor = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return full


def own_part(weight: Tensor) -> Tensor:
    """What lies here of a weight."""
    from torch.distributed.tensor import DTensor

    local: Tensor = weight.to_local() if isinstance(weight, DTensor) else weight
    return local
