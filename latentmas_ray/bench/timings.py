"""The clock readings of one transfer, and the figures of many. Plain data: no torch, no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import Any

PHASES = ("copy_out", "pack", "way", "unpack", "write")
_P99 = 0.99


@dataclass(frozen=True)
class Sent:
    """A packed segment as the sender returns it, with the times on the sender's clock."""

    begun: float
    copied: float  # out of the cache
    packed: float  # from here on the transport and Ray own it
    payload: Any


@dataclass(frozen=True)
class Received:
    """The receiver's times, on its own clock."""

    arrived: float  # the receiving method started: the payload is here
    unpacked: float
    written: float  # into the reader's cache: attention could start
    holds_bytes: bool  # the payload contained the KV; otherwise unpacking moved it


@dataclass(frozen=True)
class TransferSample:
    """The seconds of one transfer, and of the link and memcpy with as many bytes right after it."""

    phases: Mapping[str, float]
    move: float
    total: float
    limit: float  # the link's own time
    copies: float  # two memcpys: out of a cache and into another

    @staticmethod
    def of(
        sent: tuple[float, float, float], received: Received, offset: float, *, limit: float, copies: float
    ) -> "TransferSample":
        """Make a sample. `sent` is (begun, copied, packed); the receiver's clock is `offset` seconds ahead."""
        begun, copied, packed = sent
        arrived, unpacked, written = (time - offset for time in (received.arrived, received.unpacked, received.written))
        times = (begun, copied, packed, arrived, unpacked, written)
        phases = {name: max(0.0, end - begin) for name, begin, end in zip(PHASES, times[:-1], times[1:], strict=True)}
        move = phases["way"] + (0.0 if received.holds_bytes else phases["unpack"])
        return TransferSample(phases, move, written - begun, limit, copies)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One kind of time over all repeats, and its measured limit."""

    seconds: float  # median
    p99_seconds: float  # by nearest rank: with few repeats, the slowest
    best_seconds: float
    bytes_per_second: float  # at the median
    limit_bytes_per_second: float  # the same bytes, in the time of the limit
    share_of_limit: float  # median over the repeats of limit / measured; above 1 is faster than the limit


@dataclass(frozen=True, kw_only=True)
class SizeFigures:
    """All repeats at one segment size."""

    tokens: int
    num_bytes: int
    move: Timing  # against the link
    hand_over: Timing  # against two memcpys, and between nodes the link
    phases: dict[str, float]  # medians


def size_figures(tokens: int, num_bytes: int, runs: Sequence[TransferSample], *, is_remote: bool) -> SizeFigures:
    """Return the figures of one size; between nodes (`is_remote`) the limit of a transfer includes the link."""
    return SizeFigures(
        tokens=tokens,
        num_bytes=num_bytes,
        move=_timing(num_bytes, [run.move for run in runs], [run.limit for run in runs]),
        hand_over=_timing(
            num_bytes,
            [run.total for run in runs],
            [run.copies + (run.limit if is_remote else 0.0) for run in runs],
        ),
        phases={name: median(run.phases[name] for run in runs) for name in PHASES},
    )


def p99(values: Sequence[float]) -> float:
    """Return the smallest value that at least 99 % of the values do not exceed."""
    return sorted(values)[ceil(_P99 * len(values)) - 1]


def _timing(num_bytes: int, seconds: Sequence[float], limits: Sequence[float]) -> Timing:
    # A transport that passes only a handle may take less than the clock's resolution.
    measured = [max(value, 1e-9) for value in seconds]
    return Timing(
        seconds=median(measured),
        p99_seconds=p99(measured),
        best_seconds=min(measured),
        bytes_per_second=num_bytes / median(measured),
        limit_bytes_per_second=num_bytes / median(limits),
        share_of_limit=median(limit / value for value, limit in zip(measured, limits, strict=True)),
    )
