"""What the driver knows of whoever carries out turns. The local runtime and the Ray actors both speak this.

The driver holds `TurnHandle`s: names for results that may not exist yet. It never holds a tensor.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.scheduler.events import Event, TurnHandle
from latentmas_ray.scheduler.transfer_choice import TransferCosts


@dataclass(frozen=True, kw_only=True)
class RuntimeInfo:
    """What a started runtime tells about itself."""

    bytes_per_token: int  # of KV, in this model
    memory_limit_bytes: int  # what may be in flight at once when the user does not say
    description: str  # one line for the log: actors, devices, threads
    sent_bytes_per_token: int | None = None  # of KV as it travels, where a codec makes that another number
    handover_costs: TransferCosts | None = None  # measured, if the runtime was asked to
    kv_spec: Any = None  # `memory.KVCacheSpec` of the whole model, which only those look at who hold memory


class Runtime(Protocol):
    """Carries out turns, one actor (or more) per agent, each agent's in the order in which they become able to run."""

    def start(self) -> RuntimeInfo:
        """Bring up everything turns need (loads the models). Raises ClusterError, ActorError or ModelError."""

    def submit(self, work: TurnRequest, segments: Mapping[str, Any]) -> TurnHandle:
        """Queue a turn and return at once (a local runtime may carry it out first).

        `segments` holds `TurnHandle.segment` of each agent in `work.segment_order()`; they need not exist yet. Raises
        ActorError if there are no actors any more.
        """

    def poll(self, timeout_seconds: float) -> list[Event]:
        """Return what has happened since the last call, each event once, in the order in which it occurred.

        Waits up to `timeout_seconds` for the first event. Every submitted turn that is not cancelled comes back as one
        TurnDone, TurnFailed or TurnLost; a TurnDone may be followed by a TurnLost, when its segment is lost. The
        runtime looks after its actors in here, so a driver with turns in flight has to call it again and again.
        Raises ActorError or ClusterError where actors that died cannot be replaced.
        """

    def cancel(self, handles: Sequence[TurnHandle], question_ids: Collection[str] | None = None) -> None:
        """Give up on these questions (default: on all) of the turns: nothing more is reported about them.

        A turn that is queued is taken back once none of its questions is wanted; one that runs may go on to its end.
        Turns are named because ids alone do not tell whose question is meant: two callers may use the same id, and a
        batch that is rewound keeps some of its turns. Never raises.
        """

    def free_segments(self, handles: Sequence[TurnHandle]) -> None:
        """Free the segments of these turns, which no turn will read any more. Never raises."""

    def close(self) -> None:
        """Release actors and whatever `start` brought up. Safe to call twice, and after a failed start."""
