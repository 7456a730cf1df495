"""How often a key may ask: a token bucket for each."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_MAX_CALLERS: Final = 10_000  # without keys, callers are addresses, and there may be many


@dataclass
class _Bucket:
    tokens: float
    at: float  # when `tokens` was right, in seconds of the clock


@dataclass(frozen=True, kw_only=True)
class RateState:
    """The state of a caller's bucket after a request."""

    limit: int  # requests a minute
    remaining: int  # requests that it may make at once
    wait_seconds: float  # until its next request is taken; 0 if this one was

    @property
    def is_allowed(self) -> bool:
        """Whether the request is taken."""
        return self.wait_seconds == 0


class RateLimiter:
    """Takes at most `per_minute` requests a minute from each caller, and `burst` at once."""

    def __init__(self, per_minute: int, burst: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._burst = float(per_minute if burst is None else burst)
        self._rate = per_minute / 60
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # least recently used first

    def take(self, caller: str) -> RateState:
        """Take a request from a caller's bucket, or say how long until it has one."""
        now = self._clock()
        bucket = self._buckets.pop(caller, None) or _Bucket(self._burst, now)
        self._buckets[caller] = bucket
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        wait = 0.0
        if bucket.tokens >= 1:
            bucket.tokens -= 1
        else:
            wait = (1 - bucket.tokens) / self._rate
        return RateState(limit=self.per_minute, remaining=int(bucket.tokens), wait_seconds=wait)
