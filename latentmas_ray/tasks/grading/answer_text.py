"""What models put around an answer: thinking blocks, boxes, LaTeX. Every function takes time linear in the text."""

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
    """The text without its `<think>…</think>` blocks.

    An unclosed block reaches to the end. A `</think>` without its opening tag (chat templates often write the
    opening tag into the prompt) ends a block that began before the text.
    """
    return without_thinking(text).strip()


def without_thinking(text: str) -> str:
    """As `strip_thinking`, but white space stays: a line of code may begin with it."""
    kept: list[str] = []
    start = 0
    inside = False
    for tag in _THINK_TAG.finditer(text):
        if tag[1]:
            if not inside:
                kept.clear()
            start, inside = tag.end(), False
        elif not inside:
            kept.append(text[start : tag.start()])
            inside = True
    if not inside:
        kept.append(text[start:])
    return "".join(kept)


def last_box(text: str) -> str | None:
    """What stands in the last `\\boxed{…}` that is closed and not empty, as plain text; None without one."""
    source = last_box_source(text)
    return None if source is None else plain(source).strip()


def last_box_source(text: str) -> str | None:
    """The same as it was written, LaTeX and all."""
    open_braces: list[int | None] = []  # for each open brace: where its box's content begins, None for no box
    spans: list[tuple[int, int]] = []
    for token in _BRACE.finditer(text):
        if token[1]:
            open_braces.append(token.end())
        elif token[2] == "{":
            open_braces.append(None)
        elif token[2] == "}" and open_braces:
            start = open_braces.pop()
            # Only a box without a box inside is read: those are disjoint, so reading them all stays linear.
            if start is not None and (not spans or start > spans[-1][0]):
                spans.append((start, token.start()))
    for start, end in reversed(spans):
        if plain(text[start:end]).strip():
            return text[start:end].strip()
    return None


def plain(text: str) -> str:
    """The text with LaTeX reduced to characters: `\\text{}` unwrapped, `\\frac{3}{4}` as 3/4, `1{,}000` as 1,000.

    Commands that change a value (`\\sqrt`, `\\pi`) stay, backslash and all.
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
    """The form in which texts are compared: case, width, white space, quotes and closing punctuation don't count."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" \"'`*_“”‘’").rstrip(" .,;:!?\"'`*_“”‘’")
