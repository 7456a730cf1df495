"""The Ray actor of a replica with one rank: calls `execute_turn` with its model and its transport."""

import contextlib
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import ray
import torch

from latentmas_ray.actors.detached.lease import DriverLease, Rejoined, end_with_group, prove
from latentmas_ray.actors.errors import ignoring_dead
from latentmas_ray.actors.execute_turn import Runner, execute_turn, stamp_send_time
from latentmas_ray.actors.given_memory import fetch_given_memory
from latentmas_ray.actors.health.lost_segments import LostSegments
from latentmas_ray.actors.receiver import IncomingSegment, SentChunk
from latentmas_ray.authentication import RunKey
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.errors import LatentMASError
from latentmas_ray.memory import KVCacheSpec
from latentmas_ray.transport import Loopback, Place, Transport, find_available, gpu_in_use
from latentmas_ray.transport.channel import end_connections
from latentmas_ray.transport.links.probe import LinkProbe

T = TypeVar("T")
# Methods of one group run one after another in a thread of their own.
GROUPS = {"turns": 1, "ends": 1, "side": 1, "prefetch": 1, "lease": 1}


@dataclass(frozen=True)
class Loaded:
    """What an actor reports once its model is loaded."""

    spec: KVCacheSpec
    device: str
    node_id: str
    gpu: str | None  # the physical GPU that it computes on
    available: frozenset[str]  # the requirements of transports that this process meets


@dataclass
class _Running:
    """A turn whose segment is sent in two chunks."""

    first: "Future[SentChunk]" = field(default_factory=Future)
    rest: "Future[tuple[SentChunk, TurnResult]]" = field(default_factory=Future)
    held: list[SentChunk] = field(default_factory=list)  # chunks whose bytes this process holds
    is_discarded: bool = False  # `end_turn` will not be called


class AgentActor:
    """Runs as a Ray actor and returns packed chunks. The driver owns these return values, so they outlive the actor if
    the transport puts the bytes themselves into them.

    Turns run in one thread of their own. So `begin_turn` can return a turn's first chunk while the turn continues;
    `end_turn` returns the rest.
    """

    def __init__(
        self,
        make_runner: Callable[[], Runner],
        num_threads: int,
        key: RunKey | None = None,
        *,
        lease_seconds: float | None = None,
    ) -> None:
        """`key` is the run's. It comes by this way only. `lease_seconds`: end when the driver is silent for longer."""
        self._make_runner, self._key = make_runner, key
        self._transport: Transport = Loopback()
        self._engine = ThreadPoolExecutor(1, "engine", torch.set_num_threads, (num_threads,))
        self._runner: Runner | None = None
        self._running: dict[int, _Running] = {}
        self._is_ready = threading.Event()  # turns that arrive earlier wait
        self._probes: dict[str, LinkProbe] = {}
        self._idle_since = 0.0  # end of the last turn, seconds of the wall clock
        self._lost = LostSegments()
        self._lease: DriverLease | None = None
        if lease_seconds is not None:
            self._lease = DriverLease(lease_seconds, end_with_group)
            self._lease.start()

    def load(self, transport: Transport | None = None) -> Loaded:
        """Load the model, then call `use_transport` if a transport is given.

        Not in the constructor: an error raised there would reach the driver as the death of the actor.
        """
        self._runner = self._engine.submit(self._make_runner).result()
        if transport is not None:
            self.use_transport(transport)
        place = self._place()
        return Loaded(self._runner.spec, self._runner.device, place.node, place.gpu, find_available())

    def use_transport(self, transport: Transport) -> None:
        """Use this transport from now on, and let waiting turns start."""
        transport = transport.at(self._place())
        self._engine.submit(transport.open, self._key).result()  # in the thread whose current GPU is the model's
        self._transport = transport  # only now: other threads use it at once
        self._is_ready.set()

    def rejoin(self, nonce: bytes) -> Rejoined:
        """For a new driver of the run: let what the former one started end, drop what that left, and return a proof of
        the key. `use_transport` has to follow."""
        assert self._key is not None
        assert self._runner is not None, "load() comes first"
        self.renew_lease()
        self._engine.submit(lambda: None).result()  # turns that run end first
        for number, running in list(self._running.items()):
            self._drop(number, running)
        self._transport.close()
        place, runner = self._place(), self._runner
        loaded = Loaded(runner.spec, runner.device, place.node, place.gpu, find_available())
        return Rejoined(prove(self._key, nonce), loaded, ray.util.get_current_placement_group())

    def renew_lease(self) -> None:
        """The driver lives."""
        if self._lease is not None:
            self._lease.renew()

    def end(self) -> None:
        """Give the places of the run back, which ends all of its actors."""
        end_with_group()

    def run_turn(
        self, work: TurnRequest, later: Sequence[Sequence[Any]], *first: SentChunk
    ) -> tuple[SentChunk | None, TurnResult]:
        """Execute one turn; return its packed segment and its result as two Ray objects.

        `first` holds the first chunk of each segment that the turn reads, `later` the references to the other chunks.
        """
        self._is_ready.wait()
        sent: list[SentChunk] = []
        # With Loopback the segment may stay in the engine's cache until the cache is needed for another turn.
        send = None if isinstance(self._transport, Loopback) else sent.append
        chunk, result = self._engine.submit(self._execute_turn, work, later, first, send, overlaps=False).result()
        return (stamp_send_time(sent[0], result) if sent else chunk), result

    def begin_turn(
        self, number: int, work: TurnRequest, later: Sequence[Sequence[Any]], *first: SentChunk
    ) -> tuple[SentChunk, int]:
        """Start a turn; return its segment's first chunk as soon as that is final, and the number for `end_turn`."""
        self._is_ready.wait()
        return self._begin(number, work, later, first)

    def _begin(
        self, number: int, work: TurnRequest, later: Sequence[Any], first: Sequence[Any]
    ) -> tuple[SentChunk, int]:
        running = self._running.setdefault(number, _Running())
        self._enqueue(number, partial(self._execute_turn_in_chunks, number, running, work, later, first))
        try:
            chunk = running.first.result()
            running.first = Future()  # or it would hold the chunk's bytes until the turn ends
            return chunk, number
        except BaseException:
            self._running.pop(number, None)
            raise
        finally:
            del running  # a raised error refers to this frame: the cycle would keep the memory that was read alive

    def end_turn(self, number: int) -> tuple[SentChunk, TurnResult]:
        """Wait for a turn that `begin_turn` started; return its last chunk and its result."""
        return self._running.pop(number).rest.result()

    def discard_turn(self, number: int) -> None:
        """Drop the result and the chunks of a turn, which may not have started yet, when it ends. It is not stopped."""
        running = self._running.setdefault(number, _Running())
        running.is_discarded = True
        if running.rest.done():
            self._drop(number, running)

    def prefetch(self, references: Sequence[Any]) -> None:
        """Bring these chunks and their bytes to this node before a turn needs them."""
        for reference in references:
            with (
                contextlib.suppress(LatentMASError),
                ignoring_dead("chunk was not fetched"),
            ):  # the turn that reads it raises
                self._transport.fetch(ray.get(reference).payload)

    def release(self, *chunks: SentChunk) -> None:
        """Free these chunks: they will not be read again."""
        for chunk in chunks:
            self._transport.release(chunk.payload)

    def end_connections(self, host: str) -> None:
        """End this process's connections to a host that does not answer, and attempts to make them."""
        end_connections(host)

    def stop_waiting(self, segment_ids: Sequence[str]) -> None:
        """Wait no longer for these segments: the turns that read them fail."""
        self._lost.add(segment_ids)

    def get_progress(self) -> list[TurnProgress]:
        """Return how far the running turn is; nothing between turns."""
        progress = None if self._runner is None else self._runner.progress
        return [] if progress is None else [progress]

    def measure_prefill(self, num_tokens: int) -> float:
        """Return the tokens per second of a prefill."""
        assert self._runner is not None, "load() comes first"
        return self._engine.submit(self._runner.measure_prefill, num_tokens).result()

    def send_probe(self, num_bytes: int) -> np.ndarray:
        """Return an array of `num_bytes`, for another node to fetch."""
        return np.ones(num_bytes, np.uint8)

    def receive_probe(self, references: Sequence[Any]) -> float:
        """Return the seconds to fetch the arrays and copy them once, as absorbing does."""
        begin = time.perf_counter()
        for reference in references:
            ray.get(reference).copy()
        return time.perf_counter() - begin

    def open_probes(self, transports: Mapping[str, Transport], num_bytes: int) -> None:
        """Open these transports for segments of `num_bytes` that only measure; close those of an earlier call."""
        for probe in self._probes.values():
            probe.close()
        self._probes.clear()
        for name, transport in transports.items():
            self._probes[name] = LinkProbe(transport.at(self._place()), self._key, num_bytes)

    def use_probe(self, name: str, method: str, *arguments: Any) -> Any:
        """Call a method of the probe with this transport."""
        return getattr(self._probes[name], method)(*arguments)

    def _place(self) -> Place:
        assert self._runner is not None, "load() comes first"
        has_gpu = self._runner.device != "cpu" and torch.cuda.is_available()
        return Place(ray.get_runtime_context().get_node_id(), gpu_in_use() if has_gpu else None)

    def _enqueue(self, number: int, turn: Callable[[], T]) -> "Future[T]":
        """Queue a turn."""
        return self._engine.submit(turn)

    def _incoming(self, work: TurnRequest, later: Sequence[Any], first: Sequence[Any]) -> list[IncomingSegment]:
        incoming = []
        for source, chunk, references in zip(work.segment_order(), first, later, strict=True):
            name = work.read_ids.get(source)
            self._lost.check(name)
            waits = [partial(self._lost.wait_for, reference, name) for reference in references]
            incoming.append(IncomingSegment(source, chunk, waits, name))
        return incoming

    def _execute_turn(
        self,
        work: TurnRequest,
        later: Sequence[Any],
        first: Sequence[Any],
        send: Callable[[SentChunk], None] | None,
        *,
        overlaps: bool,
    ) -> tuple[SentChunk | None, TurnResult]:
        assert self._runner is not None, "load() comes first"
        incoming, work = self._incoming(work, later, first), fetch_given_memory(work)
        try:
            return execute_turn(
                self._runner,
                self._transport,
                work,
                incoming,
                send,
                overlaps=overlaps,
                idle_since=max(self._idle_since, work.submitted_at),
            )
        finally:
            self._idle_since = time.time()

    def _drop(self, number: int, running: _Running) -> None:
        """Free all chunks of a discarded turn: no handle to them may exist elsewhere."""
        self._running.pop(number, None)
        self.release(*running.held)

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
                running.held.append(chunk)
            last[:] = [chunk]
            if not published.done():
                published.set_result(chunk)

        try:
            _, result = self._execute_turn(work, later, first, send, overlaps=True)
            running.rest.set_result((stamp_send_time(last[0], result), result))
        except BaseException as error:  # noqa: BLE001  two other threads wait for any exception
            self.release(*running.held)
            # The error is stored, and its frames hold the memory that the turn had read.
            traceback.clear_frames(error.__traceback__)
            if not published.done():
                published.set_exception(error)
            running.rest.set_exception(error)
        if running.is_discarded:
            self._drop(number, running)
