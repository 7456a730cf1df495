"""One side of a benchmark in a process of its own: what is measured there does not depend on the other sides.

Imports nothing heavy: the process of a side imports this module before it sets the number of its threads.
"""

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from latentmas_ray.errors import LatentMASError, RunError, first_line

_END = "the benchmark is over"  # a closed connection says so too, unless another process has inherited its end
_JOIN_SECONDS = 5


class SideProcess:
    """A process that answers messages: a context manager that ends it."""

    def __init__(
        self, name: str, serve: Callable[..., None], *arguments: Any, join_seconds: float = _JOIN_SECONDS
    ) -> None:
        """Start `serve(name, *arguments, connection)` in a new process; it answers as `serve_side` does. At the end it
        has `join_seconds`, then it is killed."""
        # spawn: a forked process inherits torch's threads without their state
        context = multiprocessing.get_context("spawn")
        self._connection: Connection
        self._connection, theirs = context.Pipe()
        self._name, self._join_seconds = name, join_seconds
        self._process = context.Process(target=serve, args=(name, *arguments, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, message: Any) -> Any:
        """Send a message and return the answer. Raises what the side raised, RunError if it died."""
        with suppress(ConnectionError):  # what it said last is still to be read
            self._connection.send(message)
        return self.receive()

    def receive(self) -> Any:
        """Return what the side sends next. Raises what it raised, RunError if it died."""
        try:
            message = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise RunError(f"the {self._name} side of the benchmark died; is there enough memory?") from error
        if isinstance(message, LatentMASError):
            raise message
        return message

    def __enter__(self) -> "SideProcess":
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ConnectionError):
            self._connection.send(_END)
        self._connection.close()
        self._process.join(timeout=self._join_seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def serve_side(name: str, connection: Connection, start: Callable[[], tuple[Any, Callable[[Any], Any]]]) -> None:
    """Send the greeting that `start` returns, then the answer of its function to each message, until nobody asks.

    An error is sent instead, and ends the side; whatever is not ours becomes a RunError of one line.
    """
    try:
        greeting, answer = start()
        connection.send(greeting)
        while (message := connection.recv()) != _END:
            connection.send(answer(message))
    except LatentMASError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        pass  # the benchmark is over
    except Exception as error:  # noqa: BLE001 - torch out of memory, a driver: the parent shows the message only
        reason = first_line(error)
        connection.send(RunError(f"the {name} side of the benchmark failed: {type(error).__name__}: {reason}"))
