"""The interface between the scheduler and a runtime, which executes turns: in this process or in Ray actors.

The scheduler holds `TurnHandle`s, references to results that may not exist yet. It never holds a tensor. A runtime
reports events: immutable records, returned by `Runtime.poll` in the order in which they occurred. `TurnDone`,
`TurnFailed`, `TurnLost` and `QuestionDone` decide what the scheduler does next. The other events are for observers:
tokens of a turn, replicas and nodes that were added or lost.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from latentmas_ray.engine.timing.progress import TurnProgress
from latentmas_ray.engine.turn import NewTokens, OnTokens, TurnRequest, TurnResult
from latentmas_ray.errors import LatentMASError
from latentmas_ray.placement import RunLayout
from latentmas_ray.runs.run_events import ClusterEvent, TurnPlace
from latentmas_ray.scheduler.transfer_choice import TransferCosts


@dataclass(frozen=True, eq=False)
class TurnHandle:
    """One submitted turn: a reference to its future segment (None for a text agent), and the runtime's record of it.

    Both are opaque to the scheduler. The segment exists as long as a handle with it: dropping the last handle releases
    the memory.
    """

    agent: str
    segment: Any
    turn: Any
    question_ids: tuple[str, ...] = ()
    is_last: bool = False  # the turn answers its questions
    place: TurnPlace = field(default_factory=TurnPlace)


@dataclass(frozen=True, eq=False)
class TurnDone:
    """A turn has finished, and its segment exists. The only event that can follow for it is a `TurnLost`."""

    handle: TurnHandle
    result: TurnResult
    seen_at: float = field(default_factory=time.time)  # wall-clock seconds of the driver's machine


@dataclass(frozen=True, eq=False)
class TurnFailed:
    """A turn raised an error. A `TurnError` concerns the questions of the turn; an `ActorError` or `ClusterError` means
    that the runtime cannot continue; any other `LatentMASError`, such as an `InputError`, ends the run of the turn.

    The error carries no traceback: a traceback would keep the runtime's frames alive, and their segments.
    """

    handle: TurnHandle
    error: LatentMASError


@dataclass(frozen=True, eq=False)
class TurnLost:
    """A submitted turn will never finish, or a finished turn's segment is lost; the turn can be submitted again.

    `lacks_memory`: the actor is alive, but a segment that the turn reads was not available. `is_suspect`: the turn may
    have killed its actor.
    """

    handle: TurnHandle
    reason: str
    lacks_memory: bool = False
    is_suspect: bool = False


@dataclass(frozen=True, eq=False)
class TokensWritten:
    """A text agent has written `num_tokens` tokens for one question so far. A runtime that writes several turns at the
    same time reports it while the text grows; any other once for each question, when the turn finishes. `new` has
    tokens of one of its texts, of a question in `TurnRequest.streamed`."""

    handle: TurnHandle
    question_id: str
    num_tokens: int
    new: NewTokens | None = None


@dataclass(frozen=True, eq=False)
class QuestionDone:
    """The answering agent has finished one question: no other turn follows for it.

    With `result` the turn may still run for other questions: it is the turn's result for this question alone (its
    values per question have one entry, `reads` are those of the whole turn), and the question is in `TurnResult.failed`
    if it could not be answered. It may be reported before the TurnDone of other agents. If it is never reported, the
    TurnDone has what it said. Without `result` the turn is over.
    """

    handle: TurnHandle
    question_id: str
    result: TurnResult | None = None


@dataclass(frozen=True)
class CapacityChanged:
    """Replicas were added or retired: more or less work can be in flight."""

    num_replicas: int  # of the agent with the most
    writes_at_once: Mapping[str, int]  # as in `RuntimeInfo`


TurnEvent = TurnDone | TurnFailed | TurnLost
Event = TurnEvent | TokensWritten | QuestionDone | CapacityChanged | ClusterEvent


def events_of_result(
    handle: TurnHandle, result: TurnResult, question_ids: Collection[str] | None = None
) -> list[Event]:
    """Return all events of a finished turn; `question_ids` are those not cancelled (default: all of the turn).

    The order is `TokensWritten`, `TurnDone`, and for the answering agent `QuestionDone`.
    """
    wanted = handle.question_ids if question_ids is None else question_ids
    tokens = [(name, result.num_written(place)) for place, name in enumerate(handle.question_ids)]
    written = [
        TokensWritten(handle, name, count) for name, count in tokens if result.output_token_ids and name in wanted
    ]
    done = [QuestionDone(handle, name) for name in handle.question_ids if handle.is_last and name in wanted]
    return [*written, TurnDone(handle, result), *done]


def without_frames(error: LatentMASError) -> LatentMASError:
    """Return `error` after removing its traceback and those of its causes, whose frames refer to segments."""
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error


@dataclass(frozen=True, kw_only=True)
class RuntimeInfo:
    """Facts about a started runtime."""

    bytes_per_token: int  # of KV; with several models the most
    memory_limit_bytes: int  # default limit on memory in flight
    description: str  # one line for the log: actors, devices, threads
    state_bytes: int = 0  # of a question's states, which each of its segments carries
    sent_bytes_per_token: int | None = None  # of KV as it is sent, if a codec changes the size
    transfer_costs: TransferCosts | None = None  # None if they were not measured
    is_synchronous: bool = False  # `submit` executes the turn: one at a time is submitted, so that its end is seen
    engines: Mapping[str, str] = field(default_factory=dict)  # by text agent, where it is not transformers
    kv_spec: Any = None  # `memory.KVCacheSpec` of the whole model; opaque to the scheduler, which compares them
    kv_specs: Mapping[str, Any] = field(default_factory=dict)  # by agent, of those with another model
    # By text agent that writes the texts of several turns at the same time: how many questions, over all its replicas.
    # The others finish one batch before they begin the next.
    writes_at_once: Mapping[str, int] = field(default_factory=dict)
    layout: RunLayout | None = None  # what a search has chosen; None if the configuration says where agents are

    def spec_of(self, agent: str) -> Any:
        """The spec of an agent's model."""
        return self.kv_specs.get(agent, self.kv_spec)


# For agents without actors, by name and how they think: the agent whose actors execute their turns.
StandIns = Mapping[tuple[str, str], str]


@runtime_checkable
class TakesStandIns(Protocol):
    """A runtime whose actors can execute the turns of further agents."""

    def set_stand_ins(self, stand_ins: StandIns, info: RuntimeInfo) -> RuntimeInfo:
        """Execute the turns of these agents, too, from now on; those of before have to be among them while turns of
        theirs run. Returns `info` with them."""


class Runtime(Protocol):
    """Executes turns. Each agent has one actor or several; its turns start in the order in which their inputs exist."""

    def start(self) -> RuntimeInfo:
        """Start actors and load models. Raises ClusterError, ActorError or ModelError."""

    def submit(
        self, request: TurnRequest, segments: Mapping[str, Any], on_tokens: OnTokens | None = None
    ) -> TurnHandle:
        """Queue a turn and return its handle. A local runtime may execute the turn before it returns; it calls
        `on_tokens` for the questions in `TurnRequest.streamed`, and writes no more for one that is not wanted.

        `segments` holds `TurnHandle.segment` of each agent, in the order of `request.segment_order()`; they need not
        exist yet. Raises ActorError if no actor is left.
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
