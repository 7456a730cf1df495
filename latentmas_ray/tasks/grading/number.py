"""Kind `number`: reads numbers as people and models write them: `1,000`, `1 234 567`, `$18.00`, `50%`, `-3/4`, `1 1/2`,
`3 × 10^5`.

Values are exact fractions.
"""

import re
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

from latentmas_ray.patterns import LazyPattern
from latentmas_ray.tasks.grading.answer_text import last_box, plain
from latentmas_ray.tasks.grading.final_part import final_part
from latentmas_ray.tasks.grading.languages import ANSWER_IS

_MAX_NUMBER_CHARS = 400  # a longer run of digits is noise, and exact arithmetic on it is slow
_MAX_EXPONENT = 100
_MAX_MARKERS = 50  # only the last ones of "the answer is" are read
_WINDOW = 300  # characters that are read after "the answer is"

# 1,234,567 or, in groups of India, 12,34,567
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?![0-9])|[0-9]++)"
# 1 234 567, which may also be several numbers: see `_clear_value`.
_SPACED = r"(?<![0-9][ ])[0-9]{1,3}(?:[ ][0-9]{3})+(?![0-9]|[ ][0-9]|[ ]?/)"
_NUMBER = LazyPattern(
    # Not inside a word (B12), an index or an exponent. A minus after an operand is a subtraction or a range.
    r"(?<![A-Za-z0-9_^])(?<!\^[-+])(?:(?<![\w^)\]%])(?P<sign>[-+]))?"
    rf"(?:(?P<whole>[0-9]{{1,6}}+)[ ](?=[0-9]{{1,6}}+/[0-9]))?"
    rf"(?P<value>(?P<spaced>{_SPACED}(?:\.[0-9]++)?+)|{_DIGITS}(?:\.[0-9]++)?+|(?<![0-9])\.[0-9]++)"
    r"(?:[eE](?P<exponent>[-+]?[0-9]{1,400}+)(?![A-Za-z])|[ ]?[×*x][ ]?10\^(?P<power>[-+]?[0-9]{1,400}+)"
    rf"|[ ]?/[ ]?(?P<divisor>{_DIGITS}(?:\.[0-9]++)?))?+(?!\^)"
    r"(?P<odd>(?:[.,][0-9]++)++)?+"  # 12,5 or 1,23,4: the groups of no number
)
_DIGITS_ALONE = LazyPattern(r"[0-9]{1,400}")
_CURRENCY_AFTER_SIGN = LazyPattern(r"([-+])[ ]?[$€£¥₹][ ]?")
_CURRENCY = LazyPattern(r"[$€£¥₹*`]")
_LONE_SIGN = LazyPattern(r"-\s{1,9}(?=[0-9.])")
_NOT_A_PREFIX = LazyPattern(r"[\\+*×/^<>√π]|-\s?$")
_NOT_A_UNIT = LazyPattern(r"[0-9\\+=<>√π]")
_FOOTNOTE = LazyPattern(r"(?<=[A-Za-z])[\^_]?-?[0-9]")  # the square of cm^2
_MARKER = LazyPattern(
    rf"(?P<hashes>####)|\banswers?\b[^\n.:=]{{0,60}}?(?:\bis\b|\bare\b|\bbe\b|[:=])|{ANSWER_IS}", re.IGNORECASE
)
_HEADING = LazyPattern(r"[.):]\s*\S*[A-Za-z]")
_SENTENCE_END = LazyPattern(r"[.;](?=\s)")
_ENDS = LazyPattern(r"[\s.!?)\]\"'。]*(?:$|[.!?][ ])")  # nothing is counted after the number
_NEXT_NUMBER = LazyPattern(r"[ ][0-9]")
_COMPOUND = LazyPattern(r"-[A-Za-z]")  # 3 100-dollar bills
_PARENTHESIS = LazyPattern(r"\([^()\n]{0,200}\)")


class _UnclearError(ValueError):
    """What should be the number can be read as several."""


def parse_number(text: str) -> Fraction | None:
    """Return the value of a text that is one number, possibly with a unit, or an equation before it; else None."""
    text = _bare(plain(text)).rpartition("=")[2].strip()
    if lone := _LONE_SIGN.match(text):
        text = "-" + text[lone.end() :]
    match = _NUMBER.search(text)
    if match is None or match["odd"] or _NOT_A_PREFIX.search(text, 0, match.start()):
        return None
    if _NOT_A_UNIT.search(_FOOTNOTE.sub("", text[match.end() :])):
        return None
    return _value(match)


def is_plain_number(text: str) -> bool:
    """Whether the text is only a number, possibly with a currency or percent sign."""
    return parse_number(text) is not None and not re.search(
        r"[^\W\d_]", re.sub(r"(?<=[0-9])[eE](?=[-+]?[0-9])", "", text)
    )


def numbers_in(text: str) -> Iterator[Fraction]:
    """Yield all numbers of a text. Digits in groups that may be one number or several (`2 300`, `5,12`) are all of
    them."""
    for match in _NUMBER.finditer(_bare(plain(text))):
        if (value := _value(match)) is not None:
            yield value
        if match["odd"] or match["spaced"]:
            yield from (Fraction(digits) for digits in _DIGITS_ALONE.findall(match[0]))


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


def find_number(answer: str, question: str = "") -> Fraction | str | None:
    """Return the final number of an answer.

    It is read from the first of these that has one: the last box; the last answer tag; the last "the answer is …" or
    "#### …", in any of the languages of `languages.py`; the whole text, of which it is the last number. The content
    of a box or tag that is not a number is returned as text: the agent has answered, but not with a number. A number
    that can be read as two is none. `question` is what was asked, which a model may repeat.
    """
    found = final_part(answer, question)
    box = last_box(found.text)
    if box is not None:
        value = parse_number(box)
        return box if value is None else value
    try:
        return _tagged(found.text) if found.is_tagged else _untagged(found.text)
    except _UnclearError:
        return None


def extract_number(answer: str, question: str = "") -> str | None:
    """Return the result of `find_number` as text, numbers in the form of `number_text`."""
    found = find_number(answer, question)
    return number_text(found) if isinstance(found, Fraction) else found


def _tagged(text: str) -> Fraction | str | None:
    """Return the number that the content of a tag states; the content if it begins with one number and ends with
    another."""
    first_line = text.partition("\n")[0].strip()
    bare = _bare(plain(_PARENTHESIS.sub(" ", text))).strip()
    for statement in (text, bare):
        if (value := parse_number(statement)) is not None:
            return value
    for short in (first_line, _SENTENCE_END.split(bare, maxsplit=1)[0]):
        if is_plain_number(short):
            return parse_number(short)
    value = _marked(text)
    if value is None:
        value = _last_number(bare)
        first = _NUMBER.match(bare)
        if first is not None and "\n" not in bare and _value(first) != value and "=" not in bare:
            return text
    return (text or None) if value is None else value


def _untagged(text: str) -> Fraction | None:
    value = _marked(text)
    return _last_number(text) if value is None else value


def _marked(text: str) -> Fraction | None:
    """Return the number of the last statement that has one."""
    for marker in reversed(deque(_MARKER.finditer(text), maxlen=_MAX_MARKERS)):
        statement = text[marker.end() : marker.end() + _WINDOW].lstrip(" \t\r\n:：=*_`\"'>").partition("\n")[0]
        value = _after_hashes(statement) if marker["hashes"] else _stated(statement)
        if value is not None:
            return value
    return None


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
    digits = match["value"].replace(",", "").replace(" ", "")
    size = int(match["whole"] or 0) + Fraction(digits) * Fraction(10) ** exponent / divisor
    return -size if match["sign"] == "-" else size


def _clear_value(match: re.Match[str], *, is_stated: bool) -> Fraction | None:
    """Return the value. Raises _UnclearError for digits in groups that mean nothing, and for groups with spaces between
    them that may be several numbers: `2 300 g packs`, or three numbers of three digits."""
    if match["odd"]:
        raise _UnclearError
    after = match.string[match.end() :]
    if is_stated and _NEXT_NUMBER.match(after):
        raise _UnclearError
    if groups := (match["spaced"] or "").split():
        is_clear = is_stated or (len(groups) > 2 and len(groups[0]) < 3) or _ENDS.match(after)
        if not is_clear or _COMPOUND.match(after):
            raise _UnclearError
    return _value(match)


def _stated(statement: str) -> Fraction | None:
    """Return the number of a sentence: the result of its last equation, else its first number."""
    text = _bare(plain(statement))
    for part in (_SENTENCE_END.split(text, maxsplit=1)[0], text):
        for side in (part.rpartition("=")[2], part):
            if match := _NUMBER.search(side):
                return _clear_value(match, is_stated=True)
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
                if (value := _clear_value(match, is_stated=False)) is not None:
                    return value
    return None
