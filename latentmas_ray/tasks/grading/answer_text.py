"""Removes what models put around an answer: boxes, LaTeX, separators of digits. Every function takes linear time."""

import re
import unicodedata
from collections.abc import Iterator

from latentmas_ray.patterns import LazyPattern

_BRACE = LazyPattern(
    r"(\\{1,2}(?:boxed|fbox|framebox|bbox)[ \t]{0,9}(?:\[[^\[\]{}\n]{0,40}\][ \t]{0,9}){0,2}\{)"
    r"|\\{1,2}boxed(?:[ \t]{1,9}(?=[-+0-9A-Z])|(?=[0-9]))([-+]?[0-9][0-9.,/]{0,200}|[A-Z](?![A-Za-z]))"  # \boxed 5
    r"|\\.|([{}])",
    re.DOTALL,
)

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        "⁄": "/",
        "·": "×",
        "％": "%",
        "．": ".",
        "，": ", ",
    }
)
_SUPERSCRIPT = LazyPattern(r"[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]++")
_SUPERSCRIPT_DIGITS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")
_VULGAR_FRACTION = LazyPattern("[¼-¾⅐-⅞]")
# What separates groups of three digits and nothing else: spaces that do not break, those of LaTeX, apostrophes, 1_000.
_GAP = r"(?:\{,\}|\{?,?\\[,!:; ]\}?|\{[ ]\}|~|\\thinspace[ ]?(?:\{\})?|[\u00a0\u2007\u2009\u202f'’_])"
_GROUP_GAP = LazyPattern(rf"(?<=[0-9]){_GAP}(?=[0-9]{{3}}(?![0-9]))")
_WIDE_COMMA = LazyPattern(r"(?<=[０-９])，(?=[０-９]{3}(?![０-９]))")
# Numbers that can only have a decimal comma, or points between groups: 1 234,50 · 1.234,5 · 1.234.567
_DECIMAL_COMMA = LazyPattern(
    rf"(?<![0-9.,])([0-9]{{1,3}}(?:(?:{_GAP}|[. ])[0-9]{{3}}(?![0-9]))+)(?:,|\{{,\}})([0-9]{{1,2}})(?![0-9]|[.,][0-9])"
)
_POINTS = LazyPattern(r"(?<![0-9.,])([0-9]{1,3}(?:\.[0-9]{3}){2,})(?![0-9]|[.,][0-9])")
_NO_DIGIT = LazyPattern(r"[^0-9]")
_STYLE = LazyPattern(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|rm|it|sf|tt|bb)?|mbox|operatorname|displaystyle|left|right|approx"
    r"|degree|big|Big|bigl|bigr)(?![A-Za-z])[ ]?"
)
_DEGREES = LazyPattern(r"\^(?:\\circ|\{\\circ\})")
_SPACING = LazyPattern(r"\\(?:[,!:; ()\[\]]|q?quad(?![A-Za-z]))|~")
_FRACTION = LazyPattern(
    r"\\[dtc]?frac[ ]?(?:\{[ ]?([-+]?[0-9.,]{1,200})[ ]?\}[ ]?\{[ ]?([0-9.,]{1,200})[ ]?\}|([0-9])[ ]?([0-9]))"
)
_SCRIPT = LazyPattern(r"([\^_])\{([^{}\\]{0,50})\}")


def last_box(text: str) -> str | None:
    """Return the content of the last closed, non-empty `\\boxed{…}` or `\\fbox{…}` as plain text; None without one."""
    source = last_box_source(text)
    return None if source is None else plain(source).strip()


def last_box_source(text: str) -> str | None:
    """Like `last_box`, but return the content unchanged, with its LaTeX."""
    return next((content for _, _, content in _boxes_backwards(text)), None)


def last_boxes(text: str, count: int, max_gap: int) -> list[str]:
    """Return the contents of the last `count` boxes, in their order, with their LaTeX; empty if there are fewer, or if
    more than `max_gap` characters lie between two of them."""
    found: list[str] = []
    begin = len(text)
    for start, end, content in _boxes_backwards(text):
        if found and begin - end > max_gap:
            break
        found.append(content)
        begin = start
        if len(found) == count:
            return found[::-1]
    return []


def _boxes_backwards(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and content of the boxes that have one, the last first."""
    open_braces: list[int | None] = []  # for each open brace: the start of its box's content, None if it is no box
    spans: list[tuple[int, int]] = []
    for token in _BRACE.finditer(text):
        if token[1]:
            open_braces.append(token.end())
        elif token[2]:
            spans.append(token.span(2))
        elif token[3] == "{":
            open_braces.append(None)
        elif token[3] == "}" and open_braces:
            start = open_braces.pop()
            # Only boxes without an inner box are read: these are disjoint, so reading all of them is linear.
            if start is not None and (not spans or start > spans[-1][0]):
                spans.append((start, token.start()))
    for start, end in reversed(spans):
        if plain(text[start:end]).strip():
            yield start, end, text[start:end].strip()


def plain(text: str) -> str:
    """Return the text with LaTeX reduced to characters: `\\text{a}` as a, `\\frac{3}{4}` as 3/4, `1{,}000` as 1,000.

    Commands that change a value (`\\sqrt`, `\\pi`) are kept, with the backslash.
    """
    text = _VULGAR_FRACTION.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]), text)  # 1½ as 1 1/2
    text = _DECIMAL_COMMA.sub(lambda match: _NO_DIGIT.sub("", match[1]) + "." + match[2], text)
    text = _POINTS.sub(lambda match: match[1].replace(".", ""), text)
    text = _WIDE_COMMA.sub(",", _GROUP_GAP.sub(",", text)).translate(_CHARACTERS)
    text = _SUPERSCRIPT.sub(lambda match: "^" + match[0].translate(_SUPERSCRIPT_DIGITS), text)
    text = text.replace("\\$", "$").replace("\\%", "%").replace("\\times", "×").replace("\\cdot", "×")
    text = _DEGREES.sub(" ", text)
    text = _SPACING.sub(" ", _STYLE.sub("", text))
    text = _FRACTION.sub(_fraction, text)
    return _SCRIPT.sub(r"\1\2", text).replace("{", "").replace("}", "")


def _fraction(match: re.Match[str]) -> str:
    whole = match.string[match.start() - 1 : match.start()]  # 1\\frac{1}{2} is one and a half
    return f"{' ' * whole.isdigit()}{match[1] or match[3]}/{match[2] or match[4]}"


def normalise(text: str) -> str:
    """Return the text as it is compared: without case, width, extra white space, quotes and closing punctuation."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" \"'`*_“”‘’").rstrip(" .,;:!?\"'`*_“”‘’")
