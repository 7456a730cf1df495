"""The figures of a matrix, and which of its links are slow. Plain data: no torch, no Ray."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, Literal

from latentmas_ray.bench.matrix.settings import MatrixSettings
from latentmas_ray.config import ActorLink

# A link is slow if its bandwidth, or that of the plain reference on it, is below this share of the upper quartile of
# its kind; not of the median, as one slow node of three has four of six links.
SLOW_SHARE = 0.6


@dataclass(frozen=True, kw_only=True)
class LinkFigures:
    """One direction of one pair: medians over the repeats, or why there are none."""

    source: str
    reader: str
    kind: ActorLink
    transport: str = ""  # what moved the bytes
    limit: str = ""  # the reference
    bytes_per_second: float | None = None  # from the reader's request until it has copied the bytes
    limit_bytes_per_second: float | None = None  # None: there is no reference for this link
    share_of_limit: float | None = None  # median of the shares of each repeat
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class GroupFigures:
    """Transfers at the same time, and as many plain TCP streams at the same time."""

    name: str  # the reader of an incast
    num_moves: int
    bytes_per_second: float | None = None  # of all together
    limit_bytes_per_second: float | None = None
    share_of_limit: float | None = None
    failed: str = ""


@dataclass(frozen=True, kw_only=True)
class SlowLink:
    """A link below `SLOW_SHARE` of the upper quartile of its kind."""

    source: str
    reader: str
    kind: ActorLink
    what: Literal["limit", "transfer"]  # the plain reference is slow, and so the link; or only the transfers over it
    bytes_per_second: float
    share_of_usual: float


@dataclass(frozen=True, kw_only=True)
class MatrixBench:
    """The result of one run."""

    settings: MatrixSettings
    machine: str
    num_bytes: int  # of one segment
    ends: tuple[str, ...]
    links: tuple[LinkFigures, ...]
    incast: tuple[GroupFigures, ...]  # one for each reader
    all_to_all: GroupFigures | None  # None on one node
    lost: Mapping[str, str]  # ends that were lost or did not start, and why

    @property
    def slow(self) -> tuple[SlowLink, ...]:
        """The slow links, the slowest first."""
        return find_slow(self.links)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "slow": [asdict(one) for one in self.slow], "slow_share": SLOW_SHARE}


def link_figures(num_bytes: int, seconds: Sequence[float], limits: Sequence[float], **facts: Any) -> LinkFigures:
    """Return the figures of a link from the seconds of its repeats; `limits` is empty where it has no reference."""
    return LinkFigures(**_speeds(num_bytes, seconds, limits), **facts)


def group_figures(
    num_bytes: int, num_moves: int, seconds: Sequence[float], limits: Sequence[float], *, name: str
) -> GroupFigures:
    """Return the figures of `num_moves` transfers of `num_bytes` at the same time, by the time of the last."""
    return GroupFigures(name=name, num_moves=num_moves, **_speeds(num_bytes * num_moves, seconds, limits))


def _speeds(num_bytes: int, seconds: Sequence[float], limits: Sequence[float]) -> dict[str, Any]:
    speeds = {"bytes_per_second": num_bytes / median(seconds)}
    if limits:
        speeds["limit_bytes_per_second"] = num_bytes / median(limits)
        speeds["share_of_limit"] = median(limit / own for limit, own in zip(limits, seconds, strict=True))
    return speeds


def median_speed(links: Iterable[LinkFigures], kind: ActorLink, *, of_limit: bool = False) -> float | None:
    """Return the median bytes per second of the links of a kind that were measured; None without any."""
    known = _speeds_of(links, kind, of_limit=of_limit)
    return median(known) if known else None


def usual_speed(links: Iterable[LinkFigures], kind: ActorLink, *, of_limit: bool = False) -> float | None:
    """Return the upper quartile, interpolated, of the bytes per second of a kind of link; None without any."""
    known = _speeds_of(links, kind, of_limit=of_limit)
    return quantiles(known, n=4, method="inclusive")[2] if len(known) > 1 else next(iter(known), None)


def find_slow(links: Sequence[LinkFigures], share: float = SLOW_SHARE) -> tuple[SlowLink, ...]:
    """Return the links whose bandwidth is below `share` of the upper quartile of their kind, the slowest first.

    The plain reference is compared first: where that is slow, it is the link.
    """
    found = []
    kinds = {link.kind for link in links}
    known = {
        (kind, of_limit): usual_speed(links, kind, of_limit=of_limit) for kind in kinds for of_limit in (True, False)
    }
    for link in links:
        for what in ("limit", "transfer"):
            of_limit = what == "limit"
            own, usual = _speed(link, of_limit=of_limit), known[link.kind, of_limit]
            if own is None or usual is None or own >= share * usual:
                continue
            found.append(
                SlowLink(
                    source=link.source,
                    reader=link.reader,
                    kind=link.kind,
                    what=what,
                    bytes_per_second=own,
                    share_of_usual=own / usual,
                )
            )
            break
    return tuple(sorted(found, key=lambda one: one.share_of_usual))


def _speeds_of(links: Iterable[LinkFigures], kind: ActorLink, *, of_limit: bool) -> list[float]:
    return [speed for link in links if link.kind == kind and (speed := _speed(link, of_limit=of_limit)) is not None]


def _speed(link: LinkFigures, *, of_limit: bool) -> float | None:
    return link.limit_bytes_per_second if of_limit else link.bytes_per_second
