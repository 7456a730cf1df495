"""Translates Ray's exceptions to this project's. No other module names one of them in an `except`.

`RAY_ERRORS` says what each of Ray's exceptions means. How a caller reacts depends on the call, so there is a context
manager for each kind: `turn_errors`, `actor_errors`, `memory_errors`, `cluster_errors`, and `ignoring_dead` for calls
that may fail. Every translated error has Ray's as its `__cause__`.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray import exceptions

from latentmas_ray.errors import (
    ActorError,
    ClusterError,
    InputError,
    LatentMASError,
    LostActorError,
    QuestionsTooLongError,
    TransferError,
    TurnError,
    TurnLostError,
)

# By the names of Ray's classes. ActorError: the actor died or cannot start, and its turns are lost. TransferError: an
# object, and so a segment, is lost. ClusterError: Ray itself fails. TimeoutError: no answer yet. TurnError: the call
# itself failed.
_MEANINGS: Mapping[str, type[Exception]] = {
    "RayError": TurnError,
    "RayTaskError": TurnError,
    "UserCodeException": TurnError,
    "CrossLanguageError": TurnError,
    "TaskCancelledError": TurnError,
    "UnserializableException": TurnError,
    "OufOfBandObjectRefSerializationException": TurnError,
    "ObjectRefStreamEndOfStreamError": TurnError,
    "StreamingGeneratorReplayInconsistentError": TurnError,
    "PendingCallsLimitExceeded": TurnError,
    "ObjectStoreFullError": TurnError,
    "OutOfDiskError": TurnError,
    "RayActorError": ActorError,
    "ActorDiedError": ActorError,
    "ActorUnavailableError": ActorError,
    "ActorUnschedulableError": ActorError,
    "ActorPlacementGroupRemoved": ActorError,
    "ActorHandleNotFoundError": ActorError,
    "ActorAlreadyExistsError": ActorError,
    "AsyncioActorExit": ActorError,
    "WorkerCrashedError": ActorError,
    "NodeDiedError": ActorError,
    "LocalRayletDiedError": ActorError,
    "OutOfMemoryError": ActorError,
    "RuntimeEnvSetupError": ActorError,
    "ObjectLostError": TransferError,
    "ObjectFetchTimedOutError": TransferError,
    "ObjectFreedError": TransferError,
    "ObjectReconstructionFailedError": TransferError,
    "OwnerDiedError": TransferError,
    "ReferenceCountingAssertionError": TransferError,
    "PlasmaObjectNotAvailable": TransferError,
    "RayChannelError": ClusterError,
    "RayChannelTimeoutError": ClusterError,
    "RayCgraphCapacityExceeded": ClusterError,
    "RayDirectTransportError": ClusterError,
    "RaySystemError": ClusterError,
    "RpcError": ClusterError,
    "AuthenticationError": ClusterError,
    "TaskPlacementGroupRemoved": ClusterError,
    "TaskUnschedulableError": ClusterError,
    "GetTimeoutError": TimeoutError,
}
# By class. An older Ray lacks some of them; a test fails if a newer one has others.
RAY_ERRORS: Mapping[type[BaseException], type[Exception]] = {
    getattr(exceptions, name): meaning for name, meaning in _MEANINGS.items() if hasattr(exceptions, name)
}
# What `ray.init` raises if no cluster can be joined or started.
CANNOT_CONNECT = (OSError, ValueError, RuntimeError, exceptions.AuthenticationError)
NO_MEMORY = (
    "its machine ran out of memory; use a smaller batch_size, memory_in_flight or max_new_tokens, or more machines"
)
_log = logging.getLogger(__name__)


def meaning_of(error: BaseException) -> type[Exception]:
    """Return this project's error class for one of Ray's exceptions; TurnError for any other exception."""
    return next((RAY_ERRORS[kind] for kind in type(error).__mro__ if kind in RAY_ERRORS), TurnError)


def remote_error(error: BaseException) -> BaseException | None:
    """Return the exception that a method raised in its actor; None if the actor or the call itself failed."""
    if not isinstance(error, exceptions.RayTaskError):
        return None
    cause: BaseException | None = error.cause
    return cause or error  # no cause: the exception could not be pickled


def reason(error: BaseException) -> str:
    """Return a one-line reason from one of Ray's errors.

    It is the last line, since Ray puts the whole remote traceback into the text; for the death of an actor the first
    sentence, since the rest is advice on how to find the cause.
    """
    if isinstance(error, exceptions.OutOfMemoryError):
        return NO_MEMORY
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and isinstance(error, exceptions.RayActorError) and not isinstance(error, exceptions.RayTaskError):
        return next((line for line in reversed(lines) if line.startswith("The actor")), lines[0]).partition(". ")[0]
    return lines[-1] if lines else type(error).__name__


def turn_error(error: Exception) -> LatentMASError:
    """Return the error of a turn whose call ended with this error of Ray's.

    That is an InputError or a QuestionsTooLongError as it was raised, TurnLostError if memory that the turn reads is
    lost, ActorError if its actor died or says that it cannot continue, TurnError otherwise.
    """
    raised = remote_error(error)
    translated: LatentMASError
    if isinstance(raised, InputError | QuestionsTooLongError):
        translated = raised
    elif isinstance(raised, ActorError) and remote_error(raised) is None:  # alive, but its engine cannot continue
        translated = ActorError(reason(raised))
    elif raised is not None:
        # The error of the turn that should have written the memory, or of the loss of that memory.
        is_loss = isinstance(raised, TransferError) or meaning_of(raised) in (ActorError, TransferError)
        translated = TurnLostError(reason(raised)) if is_loss else TurnError(reason(raised))
    elif (kind := meaning_of(error)) is ActorError:
        translated = ActorError(reason(error))
    else:
        translated = TurnLostError(reason(error)) if kind is TransferError else TurnError(reason(error))
    translated.__cause__ = error
    return translated


@contextmanager
def turn_errors() -> Iterator[None]:
    """For a body that gets the result of a turn: raises what `turn_error` returns."""
    try:
        yield
    except exceptions.RayError as error:
        raise turn_error(error) from error


@contextmanager
def actor_errors(failed: str, died: str, *, passes: type[LatentMASError] = InputError) -> Iterator[None]:
    """For a body that calls actors. Raises an error of kind `passes` as it was raised; ActorError "`failed`: …" for
    any other error of a method; LostActorError "`died`: …" if the actor died, ActorError if its machine ran out of
    memory; TimeoutError if it did not answer in time.
    """
    try:
        yield
    except exceptions.RayError as error:
        raised = remote_error(error)
        if isinstance(raised, passes):
            raise raised from error
        if raised is not None:
            raise ActorError(f"{failed}: {reason(raised)}") from error
        if meaning_of(error) is TimeoutError:
            raise TimeoutError(str(error)) from error
        kind = ActorError if isinstance(error, exceptions.OutOfMemoryError) else LostActorError
        raise kind(f"{died}: {reason(error)}") from error


@contextmanager
def memory_errors() -> Iterator[None]:
    """For a body that gets a chunk from another actor. Raises the actor's error if it is of this project, TransferError
    otherwise."""
    try:
        yield
    except exceptions.RayError as error:
        raised = remote_error(error)
        if isinstance(raised, LatentMASError):
            raise raised from error
        why = f"memory did not come: {type(error).__name__}" if raised is None else f"memory was not made: {raised}"
        raise TransferError(why) from error


@contextmanager
def cluster_errors(what: str = "the cluster does not answer") -> Iterator[None]:
    """For a body that uses Ray itself. Raises ClusterError "`what`: …"."""
    try:
        yield
    except exceptions.RayError as error:
        raise ClusterError(f"{what}: {reason(error)}") from error


@contextmanager
def ignoring_dead(what: str) -> Iterator[None]:
    """For a body whose actor or cluster may be dead already: logs the error as `what` and continues."""
    try:
        yield
    except (exceptions.RayError, ValueError, TypeError) as error:
        _log.debug("%s: %s", what, error)


def get_outcome(reference: ray.ObjectRef) -> Any:
    """Return the value of a finished call, or Ray's error without its traceback."""
    try:
        return ray.get(reference)
    except exceptions.RayError as error:
        return error.with_traceback(None)
