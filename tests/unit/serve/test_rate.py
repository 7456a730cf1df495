"""The token bucket, with a clock of the test."""

from latentmas_ray.serve.admission.rate import RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_taken_and_the_rest_waits_for_its_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(60, burst=2, clock=clock)
    assert [limiter.take("a").is_allowed for _ in range(3)] == [True, True, False]
    state = limiter.take("a")
    assert (state.limit, state.remaining, state.wait_seconds) == (60, 0, 1.0)
    clock.now += 0.5
    assert limiter.take("a").wait_seconds == 0.5
    clock.now += 0.5
    assert limiter.take("a").is_allowed


def test_refused_requests_cost_nothing() -> None:
    clock = Clock()
    limiter = RateLimiter(60, burst=1, clock=clock)
    limiter.take("a")
    for _ in range(100):
        assert not limiter.take("a").is_allowed
    clock.now += 1
    assert limiter.take("a").is_allowed


def test_callers_do_not_share_a_bucket() -> None:
    limiter = RateLimiter(1, clock=Clock())
    assert limiter.take("a").is_allowed
    assert limiter.take("b").is_allowed
    assert not limiter.take("a").is_allowed


def test_a_bucket_never_holds_more_than_a_burst() -> None:
    clock = Clock()
    limiter = RateLimiter(60, burst=3, clock=clock)
    clock.now += 10_000
    assert [limiter.take("a").remaining for _ in range(3)] == [2, 1, 0]
    assert not limiter.take("a").is_allowed


def test_the_number_of_callers_is_bounded() -> None:
    limiter = RateLimiter(1, clock=Clock())
    for number in range(10_050):
        limiter.take(str(number))
    assert limiter.take("0").is_allowed  # forgotten, the oldest first
    assert not limiter.take("10049").is_allowed
