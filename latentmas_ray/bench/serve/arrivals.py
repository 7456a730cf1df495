"""When the requests of an open loop come."""

import random
from collections.abc import Iterator


def poisson_times(rate: float, count: int, seed: int) -> Iterator[float]:
    """Yield the times of `count` arrivals in seconds, ascending: a Poisson process of `rate` a second, so the gaps are
    exponential with the mean 1 / rate. The same seed gives the same times."""
    draw = random.Random(seed)
    now = 0.0
    for _ in range(count):
        now += draw.expovariate(rate)
        yield now
