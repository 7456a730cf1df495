"""The runtime without Ray: all agents in this process, one after another on one model.

It is the numerical reference, the way to debug, and the fast path for tests. The scheduler uses it like actors.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from latentmas_ray.actors.execute_turn import Runner, execute_turn, receive_kept
from latentmas_ray.actors.receiver import SentChunk, complete_segments
from latentmas_ray.authentication import RunKey
from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import OnTokens, TurnRequest
from latentmas_ray.errors import InputError, LatentMASError, QuestionsTooLongError, TurnError
from latentmas_ray.memory.spec import WHOLE
from latentmas_ray.placement.free_cores import find_free_cores
from latentmas_ray.runs.run_events import TurnPlace
from latentmas_ray.scheduler.protocol import (
    Event,
    RuntimeInfo,
    StandIns,
    TurnFailed,
    TurnHandle,
    events_of_result,
    without_frames,
)
from latentmas_ray.transport import Transport

_MEMORY_SHARE = 0.25  # of the free memory that segments in flight may use


class LocalRuntime:
    """Executes each turn inside `submit`."""

    def __init__(
        self,
        make_runner: Callable[[], Runner],
        transport: Transport,
        *,
        note: str = "",
        own: Mapping[str, Callable[[], Runner]] | None = None,
        num_threads: int | None = None,
    ) -> None:
        """`own` loads the models of the agents that have another than `make_runner` loads: one model for each function,
        which several agents may share. `note` is a further fact for the description, in the log. `num_threads`: of
        torch in this process, until the runtime is closed; without it as many as cores are free, and never more than
        torch would have."""
        self._make_runner = make_runner
        self._own = dict(own or {})
        self._note = note
        self._transport = transport
        self._runners: dict[Callable[[], Runner], Runner] = {}
        self._events: list[Event] = []  # for the next poll
        self._num_threads = num_threads
        self._threads_before: int | None = None

    def start(self) -> RuntimeInfo:
        """Choose the threads, then load each model once. Raises ModelError, ConfigError for models whose memory an
        agent cannot read; then `close` has to follow."""
        threads = self._choose_threads()
        for make_runner in dict.fromkeys([self._make_runner, *self._own.values()]):
            self._runners[make_runner] = make_runner()
        self._transport.open(RunKey.generate())
        runners = list(self._runners.values())
        return RuntimeInfo(
            bytes_per_token=max(runner.spec.bytes_per_token for runner in runners),
            state_bytes=max(runner.spec.state_bytes for runner in runners),
            memory_limit_bytes=int(_free_memory_bytes() * _MEMORY_SHARE),
            description=", ".join(
                filter(None, (f"all agents in this process on {runners[0].device}", threads, self._note))
            ),
            is_synchronous=True,
            kv_spec=runners[0].spec.of_shard(WHOLE),
            kv_specs={agent: self._runner_of(agent).spec.of_shard(WHOLE) for agent in self._own},
        )

    def set_stand_ins(self, stand_ins: StandIns, info: RuntimeInfo) -> RuntimeInfo:
        """See `TakesStandIns`. Agents without a model of their own have the first one anyway."""
        self._own |= {agent: self._own[one] for (agent, _), one in stand_ins.items() if one in self._own}
        specs = {agent: self._runner_of(agent).spec.of_shard(WHOLE) for agent in self._own}
        return replace(info, kv_specs=specs)

    def _runner_of(self, agent: str) -> Runner:
        assert self._runners, "start() comes first"
        return self._runners[self._own.get(agent, self._make_runner)]

    def submit(self, work: TurnRequest, segments: Mapping[str, Any], on_tokens: OnTokens | None = None) -> TurnHandle:
        """Execute the turn and queue its events for `poll`. If it fails, the handle's segment is the exception."""
        runner = self._runner_of(work.agent)
        self._keep_threads()
        place = TurnPlace(submitted_at=time.time())
        chunks = [segments[name] for name in work.segment_order()]
        for chunk in chunks:
            if isinstance(chunk, Exception):
                return self._failed(work, chunk)
        try:
            incoming = complete_segments(dict(zip(work.segment_order(), chunks, strict=True)))
            sent, result = execute_turn(runner, self._transport, work, incoming, on_tokens=on_tokens)
            kept = receive_kept(result.kept, self._transport.authenticator, work.segment_id)
        except Exception as error:  # noqa: BLE001  as in an actor: any exception fails this batch only
            return self._failed(work, error)
        handle = TurnHandle(work.agent, sent, None, work.question_ids, work.is_last, place)
        self._events += events_of_result(handle, replace(result, kept=kept))
        return handle

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Return the events of all turns submitted since the last call: they finished in `submit`."""
        events, self._events = self._events, []
        return events

    def cancel(self, handles: Sequence[TurnHandle], question_ids: Collection[str] | None = None) -> None:
        """Drop the queued events of these turns, or of the given questions; the turns themselves have finished."""

        def is_wanted(event: Event) -> bool:
            if getattr(event, "handle", None) not in handles:
                return True
            return question_ids is not None and getattr(event, "question_id", None) not in question_ids

        self._events = [event for event in self._events if is_wanted(event)]

    def free_segments(self, handles: Sequence[TurnHandle]) -> None:
        """Release the segments of these turns in the transport."""
        for handle in handles:
            if isinstance(handle.segment, SentChunk):
                self._transport.release(handle.segment.payload)

    def running_turns(self) -> list[TurnProgress]:
        """Return the turn that another thread executes now."""
        running = [runner.progress for runner in list(self._runners.values())]
        return [progress for progress in running if progress is not None]

    def close(self) -> None:
        """Drop the models and close the transport."""
        self._runners.clear()
        self._events.clear()
        self._transport.close()
        if self._threads_before is not None:
            torch.set_num_threads(self._threads_before)
            self._threads_before = None

    def _choose_threads(self) -> str:
        """Set torch's threads, and say how many and why."""
        before = torch.get_num_threads()
        self._threads_before, why = before, ""
        if self._num_threads is None:
            self._num_threads = before
            if before > 1:
                cores = find_free_cores()
                self._num_threads, why = min(before, cores.num_threads), f" ({cores})"
        self._keep_threads()
        return f"{self._num_threads} torch thread{'s' if self._num_threads > 1 else ''}{why}"

    def _keep_threads(self) -> None:
        """Set torch's threads in the calling thread: each has a number of its own."""
        if self._num_threads is not None and torch.get_num_threads() != self._num_threads:
            torch.set_num_threads(self._num_threads)

    def _failed(self, work: TurnRequest, error: Exception) -> TurnHandle:
        """Return the handle of a failed turn and queue its event. An InputError and a QuestionsTooLongError are kept as
        they are."""
        reported: LatentMASError
        if isinstance(error, InputError | QuestionsTooLongError):
            reported = error
        else:
            reported = TurnError(str(error) or type(error).__name__)
            reported.__cause__ = error
        handle = TurnHandle(work.agent, error, None, work.question_ids, work.is_last)
        self._events.append(TurnFailed(handle, without_frames(reported)))
        return handle


def _free_memory_bytes() -> int:
    """Return the bytes of physical memory that are free; a lower bound where the system holds caches."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
