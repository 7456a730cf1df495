"""An engine that is divided over tensor-parallel ranks: all ranks start, step and drop the same questions.

Rank 0 decides. It says each command to the others before it executes it itself, so a writer at rank 0 uses
`LeadingEngine` like any engine. Each of the others has a `FollowingEngine`, which gets the same turns with its own part
of their memory. What fails on one rank when a question starts fails on all of them, and only that question.
"""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from latentmas_ray.errors import ActorError, LatentMASError, ShardError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.parallel.process_group import STEP_SECONDS
from latentmas_ray.parallel.ranks import Ranks
from latentmas_ray.writing.text_engine import TextEngine, TextOutput, TextRequest

if TYPE_CHECKING:
    from latentmas_ray.models.chat import ChatTokenizer

_Kind = Literal["start", "step", "abort", "release"]
_Command = tuple[_Kind, Any]


@contextmanager
def _actor_errors() -> Iterator[None]:
    """A rank that is gone or out of step ends the engine."""
    try:
        yield
    except ShardError as error:
        raise ActorError(str(error)) from error


class LeadingEngine:
    """Rank 0's part of a divided engine. Implements `TextEngine`."""

    def __init__(self, engine: TextEngine, ranks: Ranks) -> None:
        self._engine, self._ranks = engine, ranks
        self._running: set[str] = set()

    @property
    def spec(self) -> KVCacheSpec:
        """The spec of rank 0's part of the memory."""
        return self._engine.spec

    @property
    def device(self) -> str:
        return self._engine.device

    @property
    def chat(self) -> "ChatTokenizer":
        return self._engine.chat

    @property
    def model_name(self) -> str:
        return self._engine.model_name

    @property
    def max_positions(self) -> int | None:
        return self._engine.max_positions

    @property
    def positions_bound(self) -> str:
        return self._engine.positions_bound

    @property
    def copies_memory(self) -> bool:
        return self._engine.copies_memory

    @property
    def max_running(self) -> int:
        return self._engine.max_running

    @property
    def queued(self) -> Collection[str]:
        return self._engine.queued

    def can_start(self, request: TextRequest) -> bool:
        return self._engine.can_start(request)

    def start(self, request: TextRequest) -> None:
        """Start the question on all ranks, or on none. Raises what one of them raises."""
        with _actor_errors():
            self._say("start", request.key)
            start_on_all(self._engine, self._ranks, request.key, lambda: request)
        self._running.add(request.key)

    def step(self) -> list[TextOutput]:
        with _actor_errors():
            self._say("step")
            outputs = self._engine.step()
        self._running.difference_update(output.key for output in outputs if output.end)
        return outputs

    def abort(self, keys: Collection[str]) -> None:
        known = self._running.intersection(keys)
        if known:
            with _actor_errors():
                self._say("abort", sorted(known))
            self._engine.abort(known)
        self._running -= known

    def release(self, number: int) -> None:
        """Say that a turn is over, whether any of its questions was started or not."""
        with _actor_errors():
            self._say("release", number)

    def close(self) -> None:
        self._engine.close()

    def _say(self, kind: _Kind, value: Any = None) -> None:
        self._ranks.broadcast_from_rank0(lambda: (kind, value))


class FollowingEngine:
    """Another rank's part of a divided engine. It executes what rank 0 says, as long as it knows of a turn."""

    def __init__(
        self,
        engine: TextEngine,
        ranks: Ranks,
        execute: Callable[[Callable[[], None]], Any],
        *,
        wait_seconds: float = STEP_SECONDS,
    ) -> None:
        """`execute` queues a call for the engine's thread. `wait_seconds` bounds the wait for a turn that rank 0 has
        received and this rank has not."""
        self._engine, self._ranks, self._execute, self._wait_seconds = engine, ranks, execute, wait_seconds
        self._arrived = threading.Condition()  # of all that follows
        self._requests: dict[str, TextRequest | Exception] = {}
        self._turns: dict[int, tuple[Future[None], frozenset[str]]] = {}
        self._dead: Exception | None = None
        self._is_following = False

    def add(self, number: int, requests: Mapping[str, TextRequest | Exception]) -> "Future[None]":
        """Add a turn's questions, by key; an error in place of one is raised on all ranks when it is to start. Return a
        future that is done when the turn is over; it raises ActorError if the ranks cannot continue."""
        over: Future[None] = Future()
        with self._arrived:
            if self._dead is not None:
                over.set_exception(self._dead)
                return over
            self._requests.update(requests)
            self._turns[number] = (over, frozenset(requests))
            self._arrived.notify_all()
            if not self._is_following:
                self._is_following = True
                self._execute(self._follow)
        return over

    def _follow(self) -> None:
        """Execute commands until no turn is left. Runs in the engine's thread."""
        try:
            while self._is_needed():
                with _actor_errors():
                    self._obey(self._ranks.broadcast_from_rank0(_unreachable))
        except Exception as error:  # noqa: BLE001  whatever it is, the ranks are out of step now
            dead = error if isinstance(error, ActorError) else ActorError(f"a rank failed: {error}")
            self._ranks.abort()
            with self._arrived:
                self._dead, turns, self._turns = dead, list(self._turns.values()), {}
                self._requests.clear()  # they refer to memory
            for over, _ in turns:
                over.set_exception(dead)

    def _is_needed(self) -> bool:
        with self._arrived:
            self._is_following = bool(self._turns)
            return self._is_following

    def _obey(self, command: _Command) -> None:
        kind, value = command
        if kind == "step":
            self._engine.step()
        elif kind == "abort":
            self._engine.abort(value)
        elif kind == "start":
            try:
                start_on_all(self._engine, self._ranks, value, lambda: self._wait_for(value))
            except ShardError:
                raise
            except LatentMASError:
                pass  # rank 0 raises it, too, and reports the question
        else:
            with self._arrived:
                if not self._arrived.wait_for(lambda: value in self._turns, self._wait_seconds):
                    raise ShardError(f"{self._ranks.shard} was never given turn {value}")
                over, keys = self._turns.pop(value)
                for key in keys:
                    self._requests.pop(key, None)
            over.set_result(None)

    def _wait_for(self, key: str) -> TextRequest:
        """Return a question that rank 0 has received. Raises the error that this rank has in its place."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: key in self._requests, self._wait_seconds):
                raise ShardError(f"{self._ranks.shard} was never given question {key}")
            request = self._requests[key]
        if isinstance(request, Exception):
            raise request
        return request


def start_on_all(engine: TextEngine, ranks: Ranks, key: str, get_request: Callable[[], TextRequest]) -> None:
    """Start a question on this rank, as all ranks do now. Raises what any of them raises, and then none has started."""
    has_started = False
    try:
        with ranks.all_or_none():
            engine.start(get_request())
            has_started = True
    except LatentMASError:
        if has_started:
            engine.abort([key])
        raise


def _unreachable() -> _Command:
    raise AssertionError("rank 0 makes the commands")
