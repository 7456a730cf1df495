"""The section on hand-overs: bytes and seconds from every source to every reader."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from latentmas_ray.report.html.entries import Entry, Group
from latentmas_ray.report.html.figures import Figure, num_bytes, seconds
from latentmas_ray.runs.results import TransferStats


@dataclass(frozen=True, kw_only=True)
class HandOverRow:
    """The hand-over from one agent to another."""

    source: str
    reader: str
    route: str  # link and transport
    num_bytes: Figure
    moved_bytes: Figure
    seconds: Figure
    exposed_seconds: Figure
    bytes_width: float  # widths of bars, in percent of the largest value in the group
    seconds_width: float
    exposed_width: float


@dataclass(frozen=True, kw_only=True)
class HandOverTable:
    """The hand-overs of one run."""

    entry: Entry
    rows: tuple[HandOverRow, ...]

    @property
    def route(self) -> str:
        """The route of all its hand-overs, if it is the same; else empty."""
        routes = {row.route for row in self.rows}
        return routes.pop() if len(routes) == 1 else ""


def make_hand_over_tables(group: Group) -> tuple[HandOverTable, ...]:
    """Make one table for each run that handed memory over."""
    entries = [entry for entry in group.entries if entry.summary.hand_overs]
    most_bytes = _most(entries, lambda found: found.num_bytes)
    most_seconds = _most(entries, lambda found: found.transfer_seconds)
    return tuple(
        HandOverTable(
            entry=entry,
            rows=tuple(
                _hand_over(entry, index, most_bytes, most_seconds) for index in range(len(entry.summary.hand_overs))
            ),
        )
        for entry in entries
    )


def _hand_over(entry: Entry, index: int, most_bytes: float, most_seconds: float) -> HandOverRow:
    found = entry.summary.hand_overs[index]
    place = f"hand_overs.{index}"
    return HandOverRow(
        source=found.source,
        reader=found.reader,
        route=", ".join(dict.fromkeys((*(link.replace("_", " ") for link in found.links), *found.transports))),
        num_bytes=entry.detail(f"{place}.num_bytes", num_bytes),
        moved_bytes=entry.detail(f"{place}.moved_bytes", num_bytes),
        seconds=entry.detail(f"{place}.transfer_seconds", seconds),
        exposed_seconds=entry.detail(f"{place}.exposed_seconds", seconds),
        bytes_width=_width(found.num_bytes, most_bytes),
        seconds_width=_width(found.transfer_seconds, most_seconds),
        exposed_width=_width(min(found.exposed_seconds, found.transfer_seconds), most_seconds),
    )


def _most(entries: Sequence[Entry], measure: Callable[[TransferStats], float]) -> float:
    return max((measure(found) for entry in entries for found in entry.summary.hand_overs), default=0.0)


def _width(value: float, most: float) -> float:
    return round(100 * value / most, 3) if most else 0.0
