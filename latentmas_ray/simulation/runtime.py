"""A runtime in virtual time: replicas are timers, links are modelled, and no thread ever waits."""

import heapq
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import OnTokens, Phases, SegmentRead, TurnRequest, TurnResult
from latentmas_ray.placement import LinkSpeeds, Plan, ReplicaId, Slot
from latentmas_ray.placement.routing import least_loaded, of_batch
from latentmas_ray.scheduler.protocol import Event, RuntimeInfo, TurnHandle, events_of_result
from latentmas_ray.simulation.devices import Device
from latentmas_ray.simulation.links import FetchedSegment, ModelledLinks
from latentmas_ray.simulation.results import SimulatedResults
from latentmas_ray.simulation.times import DriverCost, TurnTimers


@dataclass(eq=False)
class _SimulatedReplica:
    replica_id: ReplicaId
    slots: tuple[Slot, ...]
    device: Device["_TimedTurn"]
    nodes: tuple[int, ...]
    waiting: deque["_TimedTurn"] = field(default_factory=deque)  # in the order in which their inputs exist
    is_busy: bool = False
    pending: dict["_TimedTurn", None] = field(default_factory=dict)


@dataclass(eq=False)
class _TimedTurn:
    request: TurnRequest
    replica: _SimulatedReplica
    reads: tuple["_ModelledSegment", ...]
    num_missing: int = 0  # segments that it reads and that do not exist yet
    handle: TurnHandle | None = None
    result: TurnResult | None = None
    is_cancelled: bool = False


@dataclass(eq=False)
class _ModelledSegment:
    """The memory that a turn writes."""

    agent: str
    replica: _SimulatedReplica
    num_bytes: int
    exists: bool = False
    readers: list[_TimedTurn] = field(default_factory=list)  # that wait for it


class SimulatedRuntime:
    """Implements the scheduler's `Runtime` protocol on a plan. Its clock, `now`, jumps from event to event.

    A turn starts when the segments that it reads exist and its replica is free; it then fetches them, and computes
    for the seconds of its timer, if no other replica of its device has a turn. The processor time that passes
    between two calls of the runtime is the driver's own.
    """

    def __init__(
        self,
        plan: Plan,
        times: TurnTimers,
        driver: DriverCost,
        *,
        speeds: LinkSpeeds,
        memory_limit_bytes: int,
    ) -> None:
        """`plan` must have a topology and a model. `memory_limit_bytes` is what segments in flight may use."""
        self.now = 0.0  # seconds of virtual time
        self.links = ModelledLinks(speeds)
        self.busy_seconds: dict[str, float] = dict.fromkeys(plan.request.agents, 0.0)  # of devices, by agent
        self._plan, self._times, self._driver = plan, times, driver
        self._memory_limit_bytes = memory_limit_bytes
        self._replicas = _replicas_of(plan)
        self._results = SimulatedResults(plan)
        # The heap of events: when, in which order, what, and the turn, or the device and its number of changes.
        self._events: list[tuple[float, int, str, Any]] = []
        self._order = count()
        self._left_at: float | None = None  # processor time at the end of the last call

    def clock(self) -> float:
        """Return the virtual time in seconds."""
        return self.now

    def start(self) -> RuntimeInfo:
        """Return the facts of the plan; nothing starts."""
        return RuntimeInfo(
            bytes_per_token=self._results.bytes_per_token,
            memory_limit_bytes=self._memory_limit_bytes,
            description="simulated",
        )

    def submit(
        self, request: TurnRequest, segments: Mapping[str, "_ModelledSegment"], on_tokens: OnTokens | None = None
    ) -> TurnHandle:
        """Queue a turn at one of the agent's replicas."""
        reads = tuple(segments.values())
        replica = self._choose(request, reads)  # the driver's work in a real run, too
        with self._called():
            turn = _TimedTurn(request, replica, reads)
            replica.pending[turn] = None
            written = None
            if request.thinks == "latent":
                written = _ModelledSegment(request.agent, replica, self._results.num_bytes(request))
            turn.handle = TurnHandle(request.agent, written, turn, request.question_ids, request.is_last)
            if self._driver.is_charged:
                self.now += self._driver.runtime_per_turn
            self._driver.num_turns += 1
            for segment in reads:
                if not segment.exists:
                    segment.readers.append(turn)
                    turn.num_missing += 1
            if not turn.num_missing:
                self._add(self.now, "ready", turn)
            return turn.handle

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Return the events up to now. If there are none and it may wait, the clock jumps to the next one, however
        far that is: nothing else can happen meanwhile."""
        with self._called():
            events = self._due()
            while not events and timeout_seconds and self._events:
                self.now = self._events[0][0]
                events = self._due()
            return events

    def cancel(self, handles: Sequence[TurnHandle], question_ids: Collection[str] | None = None) -> None:
        """Cancel whole turns; those that run use their device until they end."""
        with self._called():
            for handle in handles if question_ids is None else ():
                handle.turn.is_cancelled = True
                handle.turn.replica.pending.pop(handle.turn, None)

    def free_segments(self, handles: Sequence[TurnHandle]) -> None:
        """Nothing to free: no bytes exist."""

    def running_turns(self) -> list[TurnProgress]:
        """Not known."""
        return []

    def close(self) -> None:
        """Drop all events."""
        self._events.clear()

    @contextmanager
    def _called(self) -> Iterator[None]:
        """Within a call of the runtime: count what the driver used since the last one."""
        if self._left_at is not None:
            used = time.thread_time() - self._left_at
            self._driver.own += used
            if self._driver.is_charged:
                self.now += used
        yield
        self._left_at = time.thread_time()

    def _choose(self, request: TurnRequest, reads: Sequence["_ModelledSegment"]) -> _SimulatedReplica:
        replicas = self._replicas[request.agent]
        if self._plan.is_colocated:
            return of_batch(replicas, [segment.replica for segment in reads], request.batch)
        loads = [len(replica.pending) for replica in replicas]
        index = least_loaded(replicas, loads, [segment.replica.nodes[0] for segment in reads], request.batch)
        return replicas[index]

    def _add(self, when: float, what: str, turn: Any) -> None:
        heapq.heappush(self._events, (when, next(self._order), what, turn))

    def _due(self) -> list[Event]:
        """Handle the events up to now."""
        events: list[Event] = []
        while self._events and self._events[0][0] <= self.now:
            when, _, what, turn = heapq.heappop(self._events)
            if what == "ready":
                turn.replica.waiting.append(turn)
                self._start_next(turn.replica, when)
            elif what == "ends":
                device, num_changes = turn
                if num_changes == device.num_changes:
                    self._end_turns(device, when)
            elif not turn.is_cancelled:
                events += self._finish(turn, when)
        return events

    def _end_turns(self, device: Device[_TimedTurn], now: float) -> None:
        """End the turns of a device that are over, and start the next ones of their replicas."""
        for turn in device.take_ended(now):
            turn.replica.is_busy = False
            self._start_next(turn.replica, now)
            self._add(now + self._times.latency, "known", turn)
        self._expect_end(device)

    def _start_next(self, replica: _SimulatedReplica, now: float) -> None:
        """Start the next turn of a replica, if it has none."""
        while replica.waiting and not replica.is_busy:
            turn = replica.waiting.popleft()
            if turn.is_cancelled:
                continue
            request = turn.request
            fetched = [FetchedSegment(one.replica.slots, one.num_bytes, one.replica is replica) for one in turn.reads]
            arrivals = self.links.fetch(fetched, replica.slots, now)
            begun = [now, *arrivals]
            reads = [
                _read(segment, replica, end - begin)
                for segment, begin, end in zip(turn.reads, begun, arrivals, strict=False)
            ]
            arrived = begun[-1]
            seconds = self._times.of_turn(request.agent, request.question_ids)
            is_latent = request.thinks == "latent"
            phases = Phases(wait=arrived - now, **{"think" if is_latent else "decode": seconds})
            turn.result = self._results.of_turn(request, phases, reads)
            replica.is_busy = True
            self.busy_seconds[request.agent] += seconds
            replica.device.start(turn, arrived - now + seconds, now)
            self._expect_end(replica.device)

    def _expect_end(self, device: Device[_TimedTurn]) -> None:
        if (when := device.next_end) is not None:
            self._add(when, "ends", (device, device.num_changes))

    def _finish(self, turn: _TimedTurn, now: float) -> list[Event]:
        """Make a turn's segment known to its readers, and its result to the driver."""
        handle, turn.handle = turn.handle, None  # else they refer to each other, and the memory stays
        assert handle is not None
        assert turn.result is not None
        turn.replica.pending.pop(turn, None)
        segment: _ModelledSegment | None = handle.segment
        if segment is not None:
            segment.exists = True
            for reader in segment.readers:
                reader.num_missing -= 1
                if not reader.num_missing:
                    self._add(now, "ready", reader)
            segment.readers.clear()
        return events_of_result(handle, turn.result)


def _replicas_of(plan: Plan) -> dict[str, list[_SimulatedReplica]]:
    """Return the replicas by agent. Replicas whose ranks are on the same GPUs share a device."""
    on_gpus: dict[tuple[Slot, ...], Device[_TimedTurn]] = {}
    made: dict[ReplicaId, _SimulatedReplica] = {}
    for replica_id, slots in plan.slots.items():
        device: Device[_TimedTurn] = Device()
        device = device if slots[0].gpu is None else on_gpus.setdefault(slots, device)
        made[replica_id] = _SimulatedReplica(replica_id, slots, device, tuple(slot.node for slot in slots))
    request = plan.request
    return {
        agent: [made[plan.replica_id_of(agent, number)] for number in range(request.replicas[agent])]
        for agent in request.agents
    }


def _read(segment: _ModelledSegment, reader: _SimulatedReplica, seconds: float) -> SegmentRead:
    """Return the transfer of a segment, of which nothing is hidden by computation."""
    writer = segment.replica
    is_near = writer.nodes[0] == reader.nodes[0]
    return SegmentRead(
        source=segment.agent,
        num_bytes=segment.num_bytes,
        transport="simulated",
        seconds=seconds,
        exposed_seconds=seconds,
        link="same_process" if writer is reader else "same_node" if is_near else "cross_node",
        moved_bytes=0 if writer is reader else segment.num_bytes,
    )
