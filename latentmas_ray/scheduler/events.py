"""Events that a runtime reports: immutable records, returned by `Runtime.poll` in the order in which they occurred.

`TurnDone`, `TurnFailed` and `TurnLost` decide what the scheduler does next. The other events are for observers: tokens
of a turn, replicas and nodes that were added or lost.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.errors import LatentMASError
from latentmas_ray.runs.run_events import ClusterEvent


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


@dataclass(frozen=True, eq=False)
class TurnDone:
    """A turn has finished, and its segment exists. The only event that can follow for it is a `TurnLost`."""

    handle: TurnHandle
    result: TurnResult


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
    """A text agent has written `num_tokens` tokens for one question. Reported once for each question, when the turn
    finishes: no runtime streams tokens."""

    handle: TurnHandle
    question_id: str
    num_tokens: int


@dataclass(frozen=True, eq=False)
class QuestionDone:
    """The answering agent has finished one question: no other turn follows for it."""

    handle: TurnHandle
    question_id: str


TurnEvent = TurnDone | TurnFailed | TurnLost
Event = TurnEvent | TokensWritten | QuestionDone | ClusterEvent


def events_of_result(
    handle: TurnHandle, result: TurnResult, question_ids: Collection[str] | None = None
) -> list[Event]:
    """Return all events of a finished turn; `question_ids` are those not cancelled (default: all of the turn).

    The order is `TokensWritten`, `TurnDone`, and for the answering agent `QuestionDone`.
    """
    wanted = handle.question_ids if question_ids is None else question_ids
    tokens = zip(handle.question_ids, result.output_token_ids, strict=False)
    written = [TokensWritten(handle, name, len(ids)) for name, ids in tokens if name in wanted]
    done = [QuestionDone(handle, name) for name in handle.question_ids if handle.is_last and name in wanted]
    return [*written, TurnDone(handle, result), *done]


def without_frames(error: LatentMASError) -> LatentMASError:
    """Return `error` after removing its traceback and those of its causes, whose frames refer to segments."""
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error
