"""Ray's errors become this project's at one border: every class of the installed Ray is mapped."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import ray
from ray import exceptions

from latentmas_ray.actors.errors import (
    NO_MEMORY,
    RAY_ERRORS,
    actor_errors,
    cluster_errors,
    get_outcome,
    ignoring_dead,
    meaning_of,
    memory_errors,
    reason,
    turn_errors,
)
from latentmas_ray.errors import (
    ActorError,
    ClusterError,
    ConfigError,
    LatentMASError,
    TransferError,
    TurnError,
    TurnLostError,
    WireError,
)
from tests.architecture.source import PACKAGE, sources

PUBLIC = {
    kind
    for name, kind in vars(exceptions).items()
    if inspect.isclass(kind) and issubclass(kind, BaseException) and not name.startswith("_")
}


def raised_by(cause: Exception) -> exceptions.RayTaskError:
    """As `ray.get` raises what a method of an actor raised."""
    error = exceptions.RayTaskError("method", "Traceback …\n" + repr(cause), cause)
    return error.as_instanceof_cause()  # type: ignore[no-any-return]


def test_every_exception_of_the_installed_ray_is_mapped() -> None:
    own = {kind for kind in PUBLIC if kind.__module__ == exceptions.__name__}
    assert own - RAY_ERRORS.keys() == set(), "say in RAY_ERRORS what they mean"
    assert RAY_ERRORS.keys() - own == set(), "this Ray does not have them"


def test_no_other_module_names_an_error_of_ray() -> None:
    named = {
        source.name
        for source in sources(PACKAGE)
        for found in source.imports
        if found.module.startswith("ray.exceptions")
    }
    assert {name.split("/", 1)[-1] for name in named} <= {"actors/errors.py"}


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        pytest.param(exceptions.RayActorError(), ActorError, "experienced an error", id="its actor died"),
        pytest.param(exceptions.OutOfMemoryError("much"), ActorError, NO_MEMORY[:20], id="its machine had no memory"),
        pytest.param(exceptions.NodeDiedError("gone"), ActorError, "gone", id="its node is gone"),
        pytest.param(
            exceptions.ObjectLostError("ab" * 14, "cd", "main"), TurnLostError, "lost", id="what it reads is gone"
        ),
        pytest.param(exceptions.ObjectStoreFullError("full"), TurnError, "full", id="no room for what it writes"),
        pytest.param(exceptions.RayError("new"), TurnError, "new", id="any other"),
        pytest.param(raised_by(ValueError("odd")), TurnError, "odd", id="the turn raised"),
        pytest.param(raised_by(WireError("torn")), TurnError, "torn", id="the turn raised an error of ours"),
        pytest.param(raised_by(TransferError("late")), TurnLostError, "late", id="memory did not come"),
        pytest.param(
            raised_by(exceptions.RayActorError()), TurnLostError, "The actor", id="the actor of its source died"
        ),
        pytest.param(raised_by(ActorError("no GPU")), ActorError, "no GPU", id="its engine cannot continue"),
        pytest.param(
            raised_by(raised_by(ActorError("no GPU"))),
            TurnError,
            "no GPU",
            id="that of its source",
        ),
        pytest.param(raised_by(ConfigError("x", "1", "be 2")), ConfigError, "x: got '1'", id="a user's mistake"),
    ],
)
def test_what_becomes_of_a_turn(error: Exception, expected: type[Exception], message: str) -> None:
    with pytest.raises(expected, match=message) as caught, turn_errors():
        raise error
    assert type(caught.value) is expected
    assert caught.value.__cause__ is error


Border = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("border", "error", "expected", "message"),
    [
        (lambda: actor_errors("it failed", "it died"), raised_by(ValueError("odd")), ActorError, "^it failed: odd"),
        (lambda: actor_errors("it failed", "it died"), exceptions.RayActorError(), ActorError, "^it died: The actor"),
        (lambda: actor_errors("it failed", "it died"), exceptions.GetTimeoutError("1 s"), TimeoutError, "1 s"),
        (lambda: actor_errors("it failed", "it died"), raised_by(ConfigError("x", "1", "2")), ConfigError, "x: got"),
        (lambda: actor_errors("it failed", "it died"), raised_by(WireError("torn")), ActorError, "it failed: torn"),
        (lambda: actor_errors("f", "d", passes=LatentMASError), raised_by(WireError("torn")), WireError, "torn"),
        (memory_errors, raised_by(WireError("torn")), WireError, "torn"),
        (memory_errors, raised_by(ValueError("odd")), TransferError, "memory was not made: odd"),
        (memory_errors, exceptions.OwnerDiedError("ab" * 14, "cd", "main"), TransferError, "did not come: OwnerDied"),
        (cluster_errors, exceptions.RaySystemError("silent"), ClusterError, "the cluster does not answer: .*silent"),
    ],
)
def test_what_becomes_of_other_calls(border: Border, error: Exception, expected: Any, message: str) -> None:
    with pytest.raises(expected, match=message) as caught, border():
        raise error
    assert not isinstance(caught.value, exceptions.RayError)
    assert caught.value.__cause__ is error


def test_an_error_that_is_not_rays_passes() -> None:
    for border in (turn_errors, memory_errors, cluster_errors):
        with pytest.raises(KeyError), border():
            raise KeyError("ours")


def test_what_is_dropped_may_be_gone() -> None:
    with ignoring_dead("actor was not killed"):
        raise exceptions.RayActorError


def test_an_outcome_is_a_value_or_an_error_without_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(reference: Any) -> Any:
        if reference == "bad":
            raise exceptions.NodeDiedError("gone")
        return reference

    monkeypatch.setattr(ray, "get", get)
    assert get_outcome("good") == "good"  # type: ignore[arg-type]
    error = get_outcome("bad")  # type: ignore[arg-type]
    assert meaning_of(error) is ActorError
    assert error.__traceback__ is None


def test_the_reason_of_a_death_is_one_sentence() -> None:
    error = exceptions.RayActorError(error_msg="Much.\nThe actor died because of an error. See the logs of 1234.")
    assert reason(error) == "The actor died because of an error"
