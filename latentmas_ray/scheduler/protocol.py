"""The interface between the scheduler and a runtime, which executes turns: in this process or in Ray actors.

The scheduler holds `TurnHandle`s, references to results that may not exist yet. It never holds a tensor.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from latentmas_ray.engine.progress import TurnProgress
from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.scheduler.events import Event, TurnHandle
from latentmas_ray.scheduler.transfer_choice import TransferCosts


@dataclass(frozen=True, kw_only=True)
class RuntimeInfo:
    """Facts about a started runtime."""

    bytes_per_token: int  # of KV, in this model
    memory_limit_bytes: int  # default limit on memory in flight
    description: str  # one line for the log: actors, devices, threads
    sent_bytes_per_token: int | None = None  # of KV as it is sent, if a codec changes the size
    transfer_costs: TransferCosts | None = None  # None if they were not measured
    kv_spec: Any = None  # `memory.KVCacheSpec` of the whole model; opaque to the scheduler


class Runtime(Protocol):
    """Executes turns. Each agent has one actor or several; its turns start in the order in which their inputs exist."""

    def start(self) -> RuntimeInfo:
        """Start actors and load models. Raises ClusterError, ActorError or ModelError."""

    def submit(self, request: TurnRequest, segments: Mapping[str, Any]) -> TurnHandle:
        """Queue a turn and return its handle. A local runtime may execute the turn before it returns.

        `segments` holds `TurnHandle.segment` of each agent in `request.segment_order()`; they need not exist
        yet. Raises ActorError if no actor is left.
        """

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Return what has happened since the last call, each event once, in the order in which it occurred.

        Waits up to `timeout_seconds` for the first event. Every submitted turn that is not cancelled comes back as one
        TurnDone, TurnFailed or TurnLost; a TurnDone may be followed by a TurnLost, when its segment is lost. The
        runtime checks the health of its actors here, so a scheduler with turns in flight has to call it repeatedly.
        Raises ActorError or ClusterError if dead actors cannot be replaced.
        """

    def cancel(self, handles: Sequence[TurnHandle], question_ids: Collection[str] | None = None) -> None:
        """Cancel these questions (default: all) of the turns: no more events are reported for them.

        A queued turn is removed once all of its questions are cancelled; a running turn may run to its end. Question
        ids alone are ambiguous, so handles are passed: two callers may use the same id, and a batch that is rewound
        keeps some of its turns. Never raises.
        """

    def free_segments(self, handles: Sequence[TurnHandle]) -> None:
        """Free the segments of these turns; no later turn reads them. Never raises."""

    def running_turns(self) -> list[TurnProgress]:
        """Return how far the turns are that run now, for people who wait. Unlike the other methods any thread may call
        it. Never raises."""

    def close(self) -> None:
        """Shut down the actors and everything else that `start` started. Safe to call twice, and after a failed
        start."""
