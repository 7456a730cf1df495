"""A pool of connections that are made on demand, reused, and made once more after a failure."""

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from latentmas_ray.errors import LinkError, TransferError
from latentmas_ray.transport.channel import StalledError
from latentmas_ray.transport.listener import ServerAddress


class Closable(Protocol):
    """Anything with `close`."""

    def close(self) -> None:
        """Close the connection to the peer."""


C = TypeVar("C", bound=Closable)
T = TypeVar("T")


class ConnectionPool(Generic[C]):
    """A process's connections to producers, one per address; one transfer at a time over each."""

    def __init__(self, make: Callable[[ServerAddress], C]) -> None:
        self._make = make
        self._connections: dict[ServerAddress, C] = {}
        self._locks: defaultdict[ServerAddress, threading.Lock] = defaultdict(threading.Lock)

    def use(self, address: ServerAddress, work: Callable[[C], T]) -> T:
        """Return `work(connection)` with the open connection; if there is none, or it breaks, with a new one.

        Raises TransferError if the peer is gone or stalls.
        """
        with self._locks[address]:
            try:
                return self._use(address, work)
            except LinkError as error:
                raise TransferError(f"no segment from {address.host}:{address.port}: {error}") from error

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()

    def _use(self, address: ServerAddress, work: Callable[[C], T]) -> T:
        if (connection := self._connections.pop(address, None)) is not None:
            try:
                return self._try(address, connection, work)
            except StalledError:
                raise  # the peer used up its time limit
            except LinkError:
                pass
        return self._try(address, self._make(address), work)

    def _try(self, address: ServerAddress, connection: C, work: Callable[[C], T]) -> T:
        try:
            done = work(connection)
        except TransferError as error:
            if isinstance(error, LinkError):
                connection.close()
            else:  # the peer reported the error: the connection still works
                self._connections[address] = connection
            raise
        except BaseException:
            connection.close()
            raise
        self._connections[address] = connection
        return done
