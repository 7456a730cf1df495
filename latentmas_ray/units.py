"""Format and parse sizes and durations."""

import re
from fractions import Fraction

_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([KMGT]I?)?B?\s*", re.IGNORECASE | re.ASCII)


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
    """Return the bytes of a size such as `4GB`, `512MiB` or `1000`. Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size such as 512MB, 4GB or 2GiB")
    return int(Fraction(match[1]) * _FACTORS[(match[2] or "").upper()])


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
