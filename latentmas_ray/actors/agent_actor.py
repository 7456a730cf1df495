"""The actor of one agent's replica: a thin shell around an engine and a transport."""

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import ray
import torch

from latentmas_ray.actors.errors import ignoring_dead
from latentmas_ray.actors.execute_turn import Runner, execute_turn, stamp_departure
from latentmas_ray.actors.given_memory import fetch
from latentmas_ray.actors.receiver import IncomingSegment, SentChunk
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.errors import LatentMASError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.transport import Loopback, Transport, find_available, gpu_in_use

T = TypeVar("T")
# Methods of one group run one after another in a thread of their own.
GROUPS = {"turns": 1, "ends": 1, "side": 1, "fetch": 1}


@dataclass(frozen=True)
class Loaded:
    """What an actor tells when its model is there."""

    spec: KVCacheSpec
    device: str
    node_id: str
    gpu: str | None  # the physical one that it computes on
    available: frozenset[str]  # of what transports need


@dataclass
class _Running:
    """A turn whose segment leaves in two parcels."""

    first: "Future[SentChunk]" = field(default_factory=Future)
    rest: "Future[tuple[SentChunk, TurnResult]]" = field(default_factory=Future)
    kept: list[SentChunk] = field(default_factory=list)  # those of which this process holds the bytes
    is_forgotten: bool = False  # nobody will ask for the rest


class AgentActor:
    """Runs as a Ray actor. What it packs are return values: their owner is the driver, and they outlive it where the
    transport puts the bytes themselves into them.

    A turn runs in a thread that only turns run in. So its first parcel can leave as the return value of `begin_turn`
    while it goes on; the rest is what `end_turn` returns.
    """

    def __init__(self, make_runner: Callable[[], Runner], num_threads: int) -> None:
        self._make_runner = make_runner
        self._transport: Transport = Loopback()
        self._engine = ThreadPoolExecutor(1, "engine", torch.set_num_threads, (num_threads,))
        self._runner: Runner | None = None
        self._running: dict[int, _Running] = {}
        self._is_ready = threading.Event()  # turns may come before that, and wait
        self._idle_since = 0.0  # the wall clock at the end of the last turn

    def load(self, transport: Transport | None = None) -> Loaded:
        """Load the model, and `use` a transport if one is given. Not in the constructor, because an error raised there
        would reach the driver as a dead actor instead of as itself."""
        self._runner = self._engine.submit(self._make_runner).result()
        if transport is not None:
            self.use(transport)
        device = self._runner.device
        gpu = None if device == "cpu" or not torch.cuda.is_available() else gpu_in_use()
        return Loaded(self._runner.spec, device, ray.get_runtime_context().get_node_id(), gpu, find_available())

    def use(self, transport: Transport) -> None:
        """Have memory travel this way from now on. Turns that wait may begin."""
        self._transport = transport
        self._engine.submit(transport.open).result()  # where its GPU is the current one
        self._is_ready.set()

    def run_turn(
        self, work: TurnRequest, later: Sequence[Sequence[Any]], *first: SentChunk
    ) -> tuple[SentChunk | None, TurnResult]:
        """One turn: the packed segment and the report, as two objects.

        `first` holds the first parcel of each segment that is read, `later` references to the others of each.
        """
        self._is_ready.wait()
        sent: list[SentChunk] = []
        # What stays in this process may stay in the engine's cache, until that is needed for something else.
        send = None if isinstance(self._transport, Loopback) else sent.append
        chunk, report = self._engine.submit(self._execute_turn, work, later, first, send, leaves_early=False).result()
        return (stamp_departure(sent[0], report) if sent else chunk), report

    def begin_turn(
        self, number: int, work: TurnRequest, later: Sequence[Sequence[Any]], *first: SentChunk
    ) -> tuple[SentChunk, int]:
        """Begin a turn: its segment's first parcel as soon as that is final, and the number for `end_turn`."""
        self._is_ready.wait()
        return self._begin(number, work, later, first)

    def _begin(
        self, number: int, work: TurnRequest, later: Sequence[Any], first: Sequence[Any]
    ) -> tuple[SentChunk, int]:
        running = self._running.setdefault(number, _Running())
        self._enter(number, partial(self._execute_turn_in_chunks, number, running, work, later, first))
        try:
            chunk = running.first.result()
            running.first = Future()  # or it would hold the parcel's bytes as long as the turn thinks
            return chunk, number
        except BaseException:
            self._running.pop(number, None)
            raise
        finally:
            del running  # a raised error knows this frame: the cycle would keep what the turn had read

    def end_turn(self, number: int) -> tuple[SentChunk, TurnResult]:
        """The last parcel and the report of a turn that was begun."""
        return self._running.pop(number).rest.result()

    def forget_turn(self, number: int) -> None:
        """Nobody will ask for the end of this turn, which may not even have begun: what it packs is let go."""
        running = self._running.setdefault(number, _Running())
        running.is_forgotten = True
        if running.rest.done():
            self._drop(number, running)

    def fetch(self, references: Sequence[Any]) -> None:
        """Have these parcels, and their bytes, brought to this node before a turn needs them."""
        for reference in references:
            with contextlib.suppress(LatentMASError), ignoring_dead("parcel was not fetched"):  # its reader will tell
                self._transport.fetch(ray.get(reference).payload)

    def release(self, *chunks: SentChunk) -> None:
        """Nobody will read these any more."""
        for chunk in chunks:
            self._transport.release(chunk.payload)

    def measure_prefill(self, num_tokens: int) -> float:
        """Tokens per second of a prefill."""
        assert self._runner is not None, "load() comes first"
        return self._engine.submit(self._runner.measure_prefill, num_tokens).result()

    def send_probe(self, num_bytes: int) -> np.ndarray:
        """Bytes to be brought to another node."""
        return np.ones(num_bytes, np.uint8)

    def receive_probe(self, references: Sequence[Any]) -> float:
        """Seconds until the bytes are here and have been copied once, as absorbing does."""
        begin = time.perf_counter()
        for reference in references:
            ray.get(reference).copy()
        return time.perf_counter() - begin

    def _enter(self, number: int, turn: Callable[[], T]) -> "Future[T]":
        """Queue a turn of which the number is known."""
        return self._engine.submit(turn)

    def _deliveries(self, work: TurnRequest, later: Sequence[Any], first: Sequence[Any]) -> list[IncomingSegment]:
        return [
            IncomingSegment(source, chunk, [partial(ray.get, reference) for reference in references])
            for source, chunk, references in zip(work.segment_order(), first, later, strict=True)
        ]

    def _execute_turn(
        self,
        work: TurnRequest,
        later: Sequence[Any],
        first: Sequence[Any],
        send: Callable[[SentChunk], None] | None,
        *,
        leaves_early: bool,
    ) -> tuple[SentChunk | None, TurnResult]:
        assert self._runner is not None, "load() comes first"
        deliveries, work = self._deliveries(work, later, first), fetch(work)
        try:
            return execute_turn(
                self._runner,
                self._transport,
                work,
                deliveries,
                send,
                leaves_early=leaves_early,
                idle_since=max(self._idle_since, work.submitted_at),
            )
        finally:
            self._idle_since = time.time()

    def _drop(self, number: int, running: _Running) -> None:
        """All that a turn has packed; of a turn that was cancelled nobody else may have a handle to it."""
        self._running.pop(number, None)
        self.release(*running.kept)

    def _execute_turn_in_chunks(
        self,
        number: int,
        running: _Running,
        work: TurnRequest,
        later: Sequence[Any],
        first: Sequence[Any],
    ) -> None:
        published = running.first
        last: list[SentChunk] = []

        def send(chunk: SentChunk) -> None:
            if not self._transport.capabilities.survives_producer:
                running.kept.append(chunk)
            last[:] = [chunk]
            if not published.done():
                published.set_result(chunk)

        try:
            _, report = self._execute_turn(work, later, first, send, leaves_early=True)
            running.rest.set_result((stamp_departure(last[0], report), report))
        except BaseException as error:  # noqa: BLE001  whatever it is, two other threads wait for it
            self.release(*running.kept)
            # Its frames hold what the turn had read, and the error is about to be kept.
            traceback.clear_frames(error.__traceback__)
            if not published.done():
                published.set_exception(error)
            running.rest.set_exception(error)
        if running.is_forgotten:
            self._drop(number, running)
