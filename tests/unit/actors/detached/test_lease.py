"""How long a detached actor waits for a driver."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.actors.detached.lease import DriverLease, prove
from latentmas_ray.authentication import RunKey


@given(st.lists(st.floats(0.0, 100.0), max_size=20), st.floats(1.0, 100.0))
def test_a_lease_expires_once_nobody_has_renewed_it_for_as_long(pauses: list[float], seconds: float) -> None:
    now = 0.0
    lease = DriverLease(seconds, lambda: None, clock=lambda: now)
    for pause in pauses:
        before, now = now, now + pause
        assert lease.has_expired == (now - before > seconds)
        lease.renew()
        assert not lease.has_expired


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
