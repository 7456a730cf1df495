"""Kind `number`: reads numbers as people and models write them: `1,000`, `$18.00`, `50%`, `-3/4`, `1 1/2`, `3 × 10^5`.

Values are exact fractions.
"""

import re
from collections import deque
from fractions import Fraction

from latentmas_ray.tasks.grading.answer_text import last_box, plain, strip_thinking

_MAX_NUMBER_CHARS = 400  # a longer run of digits is noise, and exact arithmetic on it is slow
_MAX_EXPONENT = 100
_MAX_MARKERS = 50  # only the last ones of "the answer is" are read
_WINDOW = 300  # characters that are read after "the answer is"

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]++)"
_NUMBER = re.compile(
    # Not inside a word (B12), an index or an exponent. A minus after an operand is a subtraction or a range.
    r"(?<![A-Za-z0-9_^])(?<!\^[-+])(?:(?<![\w^)\]%])(?P<sign>[-+]))?"
    rf"(?:(?P<whole>[0-9]{{1,6}}+)[ ](?=[0-9]{{1,6}}+/[0-9]))?"
    rf"(?P<value>{_DIGITS}(?:\.[0-9]++)?+|(?<![0-9])\.[0-9]++)"
    r"(?:[eE](?P<exponent>[-+]?[0-9]{1,400}+)(?![A-Za-z])|[ ]?[×*x][ ]?10\^(?P<power>[-+]?[0-9]{1,400}+)"
    rf"|[ ]?/[ ]?(?P<divisor>{_DIGITS}(?:\.[0-9]++)?))?+(?!\^)"
)
_CURRENCY_AFTER_SIGN = re.compile(r"([-+])[ ]?[$€£¥₹][ ]?")
_CURRENCY = re.compile(r"[$€£¥₹*`]")
_LONE_SIGN = re.compile(r"-\s{1,9}(?=[0-9.])")
_NOT_A_PREFIX = re.compile(r"[\\+*×/^<>√π]|-\s?$")
_NOT_A_UNIT = re.compile(r"[0-9\\+=<>√π]")
_FOOTNOTE = re.compile(r"(?<=[A-Za-z])[\^_]?-?[0-9]")  # the square of cm^2
_MARKER = re.compile(r"(?P<hashes>####)|\banswers?\b[^\n.:=]{0,60}?(?:\bis\b|\bare\b|\bbe\b|[:=])", re.IGNORECASE)
_HEADING = re.compile(r"[.):]\s*\S*[A-Za-z]")
_SENTENCE_END = re.compile(r"[.;](?=\s)")


def parse_number(text: str) -> Fraction | None:
    """Return the value of a text that is one number, possibly with a unit, or an equation before it; else None."""
    text = _bare(plain(text)).rpartition("=")[2].strip()
    if lone := _LONE_SIGN.match(text):
        text = "-" + text[lone.end() :]
    match = _NUMBER.search(text)
    if match is None or _NOT_A_PREFIX.search(text, 0, match.start()):
        return None
    if _NOT_A_UNIT.search(_FOOTNOTE.sub("", text[match.end() :])):
        return None
    return _value(match)


def is_plain_number(text: str) -> bool:
    """Whether the text is only a number, possibly with a currency or percent sign."""
    return parse_number(text) is not None and not re.search(
        r"[^\W\d_]", re.sub(r"(?<=[0-9])[eE](?=[-+]?[0-9])", "", text)
    )


def number_text(value: Fraction) -> str:
    """Return the canonical text of a number: `18`, `-0.5`, and `1/3` if no decimal is exact."""
    twos = fives = 0
    divisor = value.denominator
    while divisor % 2 == 0:
        divisor, twos = divisor // 2, twos + 1
    while divisor % 5 == 0:
        divisor, fives = divisor // 5, fives + 1
    places = max(twos, fives)
    if divisor != 1 or places == 0:
        return str(value)
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' * (value < 0)}{digits[:-places]}.{digits[-places:]}"


def find_number(answer: str) -> Fraction | str | None:
    """Return the final number of an answer.

    It is read from the first of these that has one: the last box; the last "the answer is …" or "#### …"; the whole
    text, of which it is the last number. The content of a box that is not a number is returned as text: the agent has
    answered, but not with a number.
    """
    answer = strip_thinking(answer)
    box = last_box(answer)
    if box is not None:
        value = parse_number(box)
        return box if value is None else value
    for marker in reversed(deque(_MARKER.finditer(answer), maxlen=_MAX_MARKERS)):
        statement = answer[marker.end() : marker.end() + _WINDOW].lstrip(" \t\r\n:=*_`\"'>").partition("\n")[0]
        value = _after_hashes(statement) if marker["hashes"] else _stated(statement)
        if value is not None:
            return value
    return _last_number(answer)


def extract_number(answer: str) -> str | None:
    """Return the result of `find_number` as text, numbers in the form of `number_text`."""
    found = find_number(answer)
    return number_text(found) if isinstance(found, Fraction) else found


def _bare(text: str) -> str:
    """Return the text without currency signs and emphasis."""
    return _CURRENCY.sub(" ", _CURRENCY_AFTER_SIGN.sub(r"\1", text.replace("**", "")))


def _value(match: re.Match[str]) -> Fraction | None:
    if match.end() - match.start() > _MAX_NUMBER_CHARS:
        return None
    exponent = int(match["exponent"] or match["power"] or 0)
    divisor = Fraction((match["divisor"] or "1").replace(",", ""))
    if abs(exponent) > _MAX_EXPONENT or divisor == 0:
        return None
    size = int(match["whole"] or 0) + Fraction(match["value"].replace(",", "")) * Fraction(10) ** exponent / divisor
    return -size if match["sign"] == "-" else size


def _stated(statement: str) -> Fraction | None:
    """Return the number of a sentence: the result of its last equation, else its first number."""
    text = _bare(plain(statement))
    for part in (_SENTENCE_END.split(text, maxsplit=1)[0], text):
        for side in (part.rpartition("=")[2], part):
            if match := _NUMBER.search(side):
                return _value(match)
    return None


def _after_hashes(statement: str) -> Fraction | None:
    """Return the number after `####`; None for a heading such as `#### 2. Count the apples` or `#### Step 2`."""
    text = _bare(plain(statement)).strip()
    match = _NUMBER.match(text)
    return None if match is None or _HEADING.match(text, match.end()) else _stated(statement)


def _last_number(answer: str) -> Fraction | None:
    for line in reversed(answer.splitlines()):
        if any(map(str.isnumeric, line)):  # isdigit is False for ¾
            for match in reversed(list(_NUMBER.finditer(_bare(plain(line))))):
                if (value := _value(match)) is not None:
                    return value
    return None
