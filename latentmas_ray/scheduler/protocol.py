"""What the driver knows of whoever carries out turns. The local runtime and the Ray actors both speak this.

The driver holds `TurnHandle`s: names for results that may not exist yet. It never holds a tensor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.scheduler.transfer_costs import TransferCosts


@dataclass(frozen=True, eq=False)
class TurnHandle:
    """One submitted turn: where its segment will be (None for a text agent), and where its report will be.

    Both are opaque to the driver. The segment lives as long as a ticket that names it: dropping the last
    reference releases the memory.
    """

    agent: str
    segment: Any
    report: Any


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

    def wait(self, tickets: Sequence[TurnHandle], timeout_seconds: float) -> list[TurnHandle]:
        """Those of `tickets` that have finished, well or badly; at least one, unless the time is up.

        Raises ActorError or ClusterError where actors that died cannot be replaced.
        """

    def report(self, ticket: TurnHandle) -> TurnResult:
        """The report of a finished turn. Raises TurnError (from the original error) if it failed, TurnLostError if it
        was lost with its actor or with memory that it reads, ActorError if there will be no actor any more."""

    def is_lost(self, ticket: TurnHandle) -> bool:
        """Whether a turn will never finish, or its segment is gone."""

    def cancel(self, tickets: Sequence[TurnHandle]) -> None:
        """Give up on turns that are queued; those that run may go on to their end. Never raises."""

    def release(self, tickets: Sequence[TurnHandle]) -> None:
        """Nobody will read the segments of these turns any more. Never raises."""

    def close(self) -> None:
        """Release actors and whatever `start` brought up. Safe to call twice, and after a failed start."""
