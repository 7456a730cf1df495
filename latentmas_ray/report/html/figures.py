"""Formats the report's numbers. Each keeps its exact value and its place in summary.json."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentmas_ray.units import format_bytes, format_number, format_p_value, format_percent, format_rate, format_seconds

NUM_AGENT_COLOURS = 6  # agent-0, agent-1, … in report.css; further agents reuse them
NOT_KNOWN = "–"
Write = Callable[[float | None], str]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number on the page."""

    value: float | None
    text: str
    run: str | None = None  # the key of the run whose summary.json holds it
    field: str | None = None  # its path there, such as agents.planner.think_seconds; None: computed for the report


def look_up(summary: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return the value at a path of keys and indices in the object of summary.json; None if there is none."""
    found: Any = summary
    for step in path:
        try:
            found = found[int(step)] if isinstance(found, list | tuple) else found.get(step)
        except (IndexError, ValueError, AttributeError):
            return None
    return found


def percent(value: float | None) -> str:
    return NOT_KNOWN if value is None else format_percent(value)


def points(value: float | None) -> str:
    """Format a percentage without the sign."""
    return NOT_KNOWN if value is None else f"{100 * value:.1f}"


def signed_points(value: float | None) -> str:
    """Format a difference of accuracies in percentage points: `+4.7`, `−1.6`."""
    return NOT_KNOWN if value is None else f"{100 * value:+.1f}".replace("-", "−")


def probability(value: float | None) -> str:
    return NOT_KNOWN if value is None else format_p_value(value)


def number(value: float | None) -> str:
    return NOT_KNOWN if value is None else format_number(value)


def rate(value: float | None) -> str:
    return NOT_KNOWN if value is None else format_rate(value)


def times(value: float | None) -> str:
    """Format a ratio: `× 1.9`."""
    return NOT_KNOWN if value is None else f"× {value:,.0f}" if value >= 9.95 else f"× {value:#.2g}"


def seconds(value: float | None) -> str:
    """Format a duration; below 0.5 ms in microseconds, instead of `0 ms`."""
    if value is None:
        return NOT_KNOWN
    return f"{1e6 * value:.0f} µs" if 0 < value < 0.0005 else format_seconds(value)


def num_bytes(value: float | None) -> str:
    return NOT_KNOWN if value is None else format_bytes(value)
