"""What a runtime reports while it works: immutable records, returned by `Runtime.poll` in the order they occurred.

`TurnDone`, `TurnFailed` and `TurnLost` decide what the scheduler does next. The others inform: progress within a turn,
replicas that come and go, nodes of the cluster.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.errors import LatentMASError


@dataclass(frozen=True, eq=False)
class TurnHandle:
    """One submitted turn: where its segment will be (None for a text agent), and the runtime's own record of it.

    Both are opaque to the driver. The segment lives as long as a ticket that names it: dropping the last
    reference releases the memory.
    """

    agent: str
    segment: Any
    turn: Any
    question_ids: tuple[str, ...] = ()
    is_last: bool = False  # the turn answers its questions


@dataclass(frozen=True, eq=False)
class TurnDone:
    """A turn came to its end, and its segment exists. The runtime reports nothing more about it, except that the
    segment is lost."""

    handle: TurnHandle
    result: TurnResult


@dataclass(frozen=True, eq=False)
class TurnFailed:
    """A turn raised an error. A `TurnError` concerns the questions of the turn; an `ActorError` or `ClusterError` means
    that the runtime cannot go on; any other `LatentMASError`, such as an `InputError`, ends the run of the turn.

    The error carries no traceback, which would keep the frames of the runtime alive, and with them segments.
    """

    handle: TurnHandle
    error: LatentMASError


@dataclass(frozen=True, eq=False)
class TurnLost:
    """A submitted turn will never finish, or a finished turn's segment is gone; the turn can be submitted again.

    `lacks_memory`: the actor is alive, but a segment that the turn reads could not be had. `is_suspect`: the turn may
    be what its actor died of.
    """

    handle: TurnHandle
    reason: str
    lacks_memory: bool = False
    is_suspect: bool = False


@dataclass(frozen=True, eq=False)
class TokensWritten:
    """A text agent has written `num_tokens` more tokens for one question. Reported once for each question at the end of
    the turn: today no runtime streams tokens."""

    handle: TurnHandle
    question_id: str
    num_tokens: int


@dataclass(frozen=True, eq=False)
class QuestionDone:
    """The turn of the answering agent is done for one question: no other turn follows for it."""

    handle: TurnHandle
    question_id: str


@dataclass(frozen=True)
class ReplicaReady:
    """A replica of these agents (several if they share an actor) has loaded its model on these nodes."""

    agents: tuple[str, ...]
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class ReplicaLost:
    """A replica of these agents died or was ended. Its turns follow as `TurnLost`."""

    agents: tuple[str, ...]
    nodes: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class NodeJoined:
    """The cluster has a new node. Running replicas stay where they are."""

    node: str


@dataclass(frozen=True)
class NodeDraining:
    """A node is about to be taken away. No runtime reports it yet: Ray tells which nodes drain through private
    interfaces only."""

    node: str


TurnEvent = TurnDone | TurnFailed | TurnLost
Event = TurnEvent | TokensWritten | QuestionDone | ReplicaReady | ReplicaLost | NodeJoined | NodeDraining


def events_of_result(
    handle: TurnHandle, result: TurnResult, question_ids: Collection[str] | None = None
) -> list[Event]:
    """All events of a turn that came to its end; `question_ids` are those not cancelled (default: all of the turn).

    Tokens come before `TurnDone`, and `QuestionDone`, for the answering agent, after it.
    """
    wanted = handle.question_ids if question_ids is None else question_ids
    tokens = zip(handle.question_ids, result.output_token_ids, strict=False)
    written = [TokensWritten(handle, name, len(ids)) for name, ids in tokens if name in wanted]
    done = [QuestionDone(handle, name) for name in handle.question_ids if handle.is_last and name in wanted]
    return [*written, TurnDone(handle, result), *done]


def without_frames(error: LatentMASError) -> LatentMASError:
    """The same error, whose traceback and whose causes' tracebacks are dropped: they know frames that hold segments."""
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error
