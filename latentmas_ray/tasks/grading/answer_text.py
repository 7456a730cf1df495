"""Removes what models put around an answer: thinking blocks, boxes, LaTeX. Every function takes linear time."""

import re
import unicodedata

_THINK_TAG = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_BRACE = re.compile(r"(\\{1,2}boxed[ \t]{0,9}\{)|\\.|([{}])", re.DOTALL)

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2212\u2013\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2009\u202f", " "),
        "⁄": "/",
        "·": "×",
    }
)
_SUPERSCRIPT = re.compile(r"[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]++")
_SUPERSCRIPT_DIGITS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")
_VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞]")
_GROUP_GAP = re.compile(r"(?<=[0-9])(?:\{,\}|,?\\[,!:; ]|[\u00a0\u2009\u202f])(?=[0-9]{3}(?![0-9]))")
_STYLE = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:bf|rm|it|sf|tt|bb)?|mbox|operatorname|displaystyle|left|right|approx"
    r"|degree|big|Big|bigl|bigr)(?![A-Za-z])[ ]?"
)
_DEGREES = re.compile(r"\^(?:\\circ|\{\\circ\})")
_SPACING = re.compile(r"\\(?:[,!:; ()\[\]]|q?quad(?![A-Za-z]))|~")
_FRACTION = re.compile(
    r"\\[dtc]?frac[ ]?(?:\{[ ]?([-+]?[0-9.,]{1,200})[ ]?\}[ ]?\{[ ]?([0-9.,]{1,200})[ ]?\}|([0-9])[ ]?([0-9]))"
)
_SCRIPT = re.compile(r"([\^_])\{([^{}\\]{0,50})\}")


def strip_thinking(text: str) -> str:
    """Return the text without its `<think>…</think>` blocks.

    An unclosed block extends to the end. A `</think>` without an opening tag ends a block that began before the text
    (chat templates often put the opening tag into the prompt).
    """
    return without_thinking(text).strip()


def without_thinking(text: str) -> str:
    """Like `strip_thinking`, but keep white space: a line of code may begin with it."""
    parts: list[str] = []
    start = 0
    inside = False
    for tag in _THINK_TAG.finditer(text):
        if tag[1]:
            if not inside:
                parts.clear()
            start, inside = tag.end(), False
        elif not inside:
            parts.append(text[start : tag.start()])
            inside = True
    if not inside:
        parts.append(text[start:])
    return "".join(parts)


def last_box(text: str) -> str | None:
    """Return the content of the last closed, non-empty `\\boxed{…}` as plain text; None without one."""
    source = last_box_source(text)
    return None if source is None else plain(source).strip()


def last_box_source(text: str) -> str | None:
    """Like `last_box`, but return the content unchanged, with its LaTeX."""
    open_braces: list[int | None] = []  # for each open brace: the start of its box's content, None if it is no box
    spans: list[tuple[int, int]] = []
    for token in _BRACE.finditer(text):
        if token[1]:
            open_braces.append(token.end())
        elif token[2] == "{":
            open_braces.append(None)
        elif token[2] == "}" and open_braces:
            start = open_braces.pop()
            # Only boxes without an inner box are read: these are disjoint, so reading all of them is linear.
            if start is not None and (not spans or start > spans[-1][0]):
                spans.append((start, token.start()))
    for start, end in reversed(spans):
        if plain(text[start:end]).strip():
            return text[start:end].strip()
    return None


def plain(text: str) -> str:
    """Return the text with LaTeX reduced to characters: `\\text{a}` as a, `\\frac{3}{4}` as 3/4, `1{,}000` as 1,000.

    Commands that change a value (`\\sqrt`, `\\pi`) are kept, with the backslash.
    """
    text = _VULGAR_FRACTION.sub(lambda match: " " + unicodedata.normalize("NFKC", match[0]), text)  # 1½ as 1 1/2
    text = _GROUP_GAP.sub(",", text).translate(_CHARACTERS)
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
