"""Text that a model wrote, as a terminal may show it."""

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
