"""A simulated run takes as long as the real one: the same scheduler, with timers as replicas on Ray."""

import pytest

from benchmarks.scaling.against_simulation import TimedCase, compare

# Half a minute of timers; tests/unit/simulation compares the virtual time with times known by hand.
pytestmark = [pytest.mark.usefixtures("cluster"), pytest.mark.slow]


def test_a_simulated_run_takes_as_long_as_a_real_one() -> None:
    """Three replicas of a thinker and of a writer, which is the slow one; medians of 5."""
    case = TimedCase(latent=1, text=1, replicas=3, batches=6, first=0.3, later=0.8)
    (found,) = compare([case], 5, print)
    print(found)
    # A busy machine is slower than its timers; `python -m benchmarks simulation` gives the difference on a quiet one.
    assert -0.75 < found.difference < 0.15, found
