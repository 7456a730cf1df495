"""How long a detached actor waits for a driver."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.actors.detached import lease as module
from latentmas_ray.actors.detached.lease import DriverLease, prove
from latentmas_ray.authentication import RunKey


@given(st.lists(st.floats(0.0, 100.0), max_size=20), st.floats(1.0, 100.0))
def test_a_lease_expires_once_it_was_not_renewed_for_as_long(pauses: list[float], seconds: float) -> None:
    now = 0.0
    lease = DriverLease(seconds, lambda: None, clock=lambda: now)
    for pause in pauses:
        before, now = now, now + pause
        assert lease.has_expired == (now - before > seconds)
        lease.renew()
        assert not lease.has_expired


def test_time_in_which_the_actor_itself_was_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The renewals of that time are there, and are not read yet."""
    now, ended = 0.0, []
    pauses = iter([1.0, 600.0, 1.0, 1.0])

    def sleep(seconds: float) -> None:
        nonlocal now
        now += next(pauses, seconds)

    lease = DriverLease(60.0, lambda: ended.append(now), clock=lambda: now)
    monkeypatch.setattr(module.time, "sleep", sleep)
    lease._watch()
    (end,) = ended
    assert 660.0 <= end <= 664.0  # without a renewal it expires later


def test_what_it_calls_at_the_end_is_called_once() -> None:
    ended: list[bool] = []
    has_ended = threading.Event()

    def end() -> None:
        ended.append(True)
        has_ended.set()

    DriverLease(0.01, end).start()
    assert has_ended.wait(60.0)
    assert ended == [True]


def test_only_the_runs_key_proves_to_be_the_runs() -> None:
    key, other = RunKey.generate(), RunKey.generate()
    assert prove(key, b"nonce") == prove(key, b"nonce")
    assert len({prove(key, b"nonce"), prove(key, b"another"), prove(other, b"nonce")}) == 3
