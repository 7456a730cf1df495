"""Format and parse numbers for people: sizes, durations, counts, shares."""

import math
import re
from fractions import Fraction

_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([KMGT]I?B?|B)?\s*", re.IGNORECASE | re.ASCII)
_SIZE_FORM = "it must be a size such as 512MB, 4GB or 2GiB"
_FEW_DIGITS = 5  # a longer number without a unit is one of bytes


def format_bytes(num_bytes: float) -> str:
    """Format with three significant figures and a decimal unit: `138 MB`, `1.62 GB`, `0 B`."""
    scaled = float(num_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        # Not 1000: a value that rounds to 1000 of one unit is shown as 1 of the next.
        if scaled < 999.5:
            return f"{scaled:.0f} B" if unit == "B" else f"{scaled:.3g} {unit}"
        scaled /= 1000
    return f"{scaled:.3g} TB" if scaled < 999.5 else f"{scaled:.0f} TB"


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as `4GB`, `512MiB` or `1000B`.

    Raises ValueError, with what would be right, for anything else; a number without a unit may be meant in any.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(_SIZE_FORM)
    number, unit = match.groups()
    if unit is None:
        likely = f"{number}GB or {number}GiB" if len(number) <= _FEW_DIGITS else f"{number}B"
        raise ValueError(f"a size needs its unit: {likely}")
    return int(Fraction(number) * _FACTORS[unit.upper().removesuffix("B")])


def share_of(share: float, count: int) -> int:
    """Return ⌈share · count⌉, at least 1 of any. The product's rounding error makes it no larger: 0.07 · 100 is 7."""
    return min(count, max(1, math.ceil(share * count - 1e-9)))


def format_seconds(seconds: float) -> str:
    """Format a duration: `85 ms`, `12.3 s`, `4 min 05 s`, `2 h 03 min`."""
    # At each bound the smaller unit would round up to a whole larger one.
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def format_fine_seconds(seconds: float) -> str:
    """Two or three significant figures, also of microseconds: `85 µs`, `1.23 ms`, `12.3 ms`, `4.56 s`."""
    for unit, scale in (("µs", 1e6), ("ms", 1e3)):
        value = seconds * scale
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "µs" or value >= 99.95 else f"{value:.3g} {unit}"
    return f"{seconds:.3g} s"


def format_number(value: float) -> str:
    """`40`, `212.4`, `12,345`, `0.32`; no more decimals than a reader can use."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.2g}"


def format_percent(share: float) -> str:
    """`52.5 %`."""
    return f"{100 * share:.1f} %"


def format_accuracy(accuracy: float | None, interval: tuple[float, float] | None = None) -> str:
    """`52.5 %`, with its interval `52.5 % (49.1–55.9)`, or a word where nothing could be graded."""
    if accuracy is None:
        return "not graded"
    within = "" if interval is None else f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"
    return format_percent(accuracy) + within


def format_spread(accuracy: float | None, half_width: float | None) -> str:
    """`52.5 % ± 3.1`, or without the second part where it is not known."""
    return format_accuracy(accuracy) + ("" if half_width is None else f" ± {100 * half_width:.1f}")


def format_p_value(value: float | None) -> str:
    """`0.042`, `< 0.001`, or `-` where there is none."""
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def format_rate(per_second: float) -> str:
    """Three significant figures: `0.123`, `12.3`, `1,234`."""
    return f"{per_second:,.0f}" if per_second >= 1000 else f"{per_second:.3g}"


def format_times(ratio: float) -> str:
    """A ratio with three significant figures: `0.92`, `1.09`, `12.3`, `1,234`."""
    return f"{ratio:,.0f}" if ratio >= 99.95 else f"{ratio:.1f}" if ratio >= 9.995 else f"{ratio:.2f}"


def format_speed_ratio(ratio: float) -> str:
    """A speed as a multiple of another one, with a factor of at least 1: `1.25 × faster`, `1.09 × slower`, `as fast`.

    A ratio that is 0 or not finite, for which there is no factor, is a plain multiple.
    """
    if not 0 < ratio < math.inf:
        return f"{ratio:g} × as fast"
    factor = format_times(max(ratio, 1 / ratio))
    if factor == "1.00":
        return "as fast"
    return f"{factor} × {'faster' if ratio > 1 else 'slower'}"


def format_figure(name: str, value: float) -> str:
    """`value` in the unit that the field's name tells (`x_bytes`, `x_seconds`, a count)."""
    if name.endswith("bytes"):
        return format_bytes(value)
    if name.endswith("seconds"):
        return format_seconds(value)
    return format_number(value)
