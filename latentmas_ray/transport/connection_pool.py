"""Links that are made when they are needed, used again, and made once more when one breaks."""

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from latentmas_ray.errors import LinkError, TransferError
from latentmas_ray.transport.channel import StalledError
from latentmas_ray.transport.listener import ServerAddress


class Closable(Protocol):
    """A link."""

    def close(self) -> None:
        """Let go of the peer."""


L = TypeVar("L", bound=Closable)
T = TypeVar("T")


class ConnectionPool(Generic[L]):
    """A process's links to the producers that it has read from; one transfer at a time over each."""

    def __init__(self, make: Callable[[ServerAddress], L]) -> None:
        self._make = make
        self._links: dict[ServerAddress, L] = {}
        self._locks: defaultdict[ServerAddress, threading.Lock] = defaultdict(threading.Lock)

    def use(self, address: ServerAddress, work: Callable[[L], T]) -> T:
        """Do `work` over the link that is there; if that breaks, or none is, over a fresh one.

        Raises TransferError where the peer is gone or stalls.
        """
        with self._locks[address]:
            try:
                return self._use(address, work)
            except LinkError as error:
                raise TransferError(f"no segment from {address.host}:{address.port}: {error}") from error

    def close(self) -> None:
        """Let go of all peers."""
        for link in self._links.values():
            link.close()

    def _use(self, address: ServerAddress, work: Callable[[L], T]) -> T:
        if (link := self._links.pop(address, None)) is not None:
            try:
                return self._try(address, link, work)
            except StalledError:
                raise  # the peer had its time
            except LinkError:
                pass
        return self._try(address, self._make(address), work)

    def _try(self, address: ServerAddress, link: L, work: Callable[[L], T]) -> T:
        try:
            done = work(link)
        except TransferError as error:
            if isinstance(error, LinkError):
                link.close()
            else:  # the peer said so: the link is as good as before
                self._links[address] = link
            raise
        except BaseException:
            link.close()
            raise
        self._links[address] = link
        return done
