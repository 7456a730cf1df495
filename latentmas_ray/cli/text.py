"""How numbers and model output are written for people."""

from latentmas_ray.units import format_bytes, format_seconds

_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}")  # a question file may hold a lone one
_UNPRINTABLE = {**_CONTROL, **_SURROGATES}


def printable(text: str) -> str:
    """`text` without control characters: what a model wrote must not drive the reader's terminal."""
    return text.translate(_UNPRINTABLE)


def shorten(text: str, max_chars: int) -> str:
    """`text` on one line, cut to `max_chars`."""
    flat = " ".join(printable(text).split())
    return flat if len(flat) <= max_chars else flat[: max_chars - 1] + "…"


def format_number(value: float) -> str:
    """`40`, `212.4`, `12,345`; no more decimals than a reader can use."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 0.05 else f"{value:.2g}"


def format_accuracy(accuracy: float | None, interval: tuple[float, float] | None = None) -> str:
    """`52.5 %`, with its interval `52.5 % (49.1–55.9)`, or a word where nothing could be graded."""
    if accuracy is None:
        return "not graded"
    within = "" if interval is None else f" ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"
    return f"{100 * accuracy:.1f} %{within}"


def format_spread(accuracy: float | None, half_width: float | None) -> str:
    """`52.5 % ± 3.1`, or without the second part where it is not known."""
    return format_accuracy(accuracy) + ("" if half_width is None else f" ± {100 * half_width:.1f}")


def format_figure(name: str, value: float) -> str:
    """`value` in the unit that the field's name tells (`x_bytes`, `x_seconds`, a count)."""
    if name.endswith("bytes"):
        return format_bytes(value)
    if name.endswith("seconds"):
        return format_seconds(value)
    return format_number(value)
