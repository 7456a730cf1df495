"""Numbers that an English text writes as words: `twenty-one`, `two hundred and five`, `3 thousand`, `a dozen`."""

from collections.abc import Iterator

from latentmas_ray.patterns import LazyPattern

_UNITS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen
"""
_SMALL = {word: number for number, word in enumerate(_UNITS.split())}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_HUNDRED, _DOZEN = "hundred", "dozen"
_AFTER_DIGITS = {_HUNDRED, _DOZEN, *_SCALES}  # words that make digits or an article before them a number in words
_NEGATIVE = ("minus", "negative")
# Words with only spaces or hyphens between them; a comma or a full stop ends a number.
_RUN = LazyPattern(r"[A-Za-z0-9]+(?:[ \t\n\u2010-\u2012-]+[A-Za-z0-9]+)*+")
_WORD = LazyPattern(r"[A-Za-z0-9]+")
_MAX_DIGITS = 15

_Read = tuple[int, int] | None  # a number, and the place after its last word


def numbers_in_words(text: str) -> Iterator[int]:
    """Yield the numbers that a text writes as words, each as far as it goes: `one hundred and five` is 105 alone.
    Digits count only before a word such as `thousand`."""
    for run in _RUN.finditer(text):
        words = [word[0].lower() for word in _WORD.finditer(run[0])]
        at = 0
        while at < len(words):
            read = _number(words, at)
            if read is None:
                at += 1
                continue
            is_negative = at > 0 and words[at - 1] in _NEGATIVE
            yield -read[0] if is_negative else read[0]
            at = read[1]


def _number(words: list[str], at: int) -> _Read:
    """Return the number that begins at this word: parts with smaller and smaller scales, then one without."""
    total, end, limit = 0, at, 10**15
    while (read := _below_thousand(words, _after_and(words, end) if end > at else end)) is not None:
        value, after = read
        scale = _SCALES.get(_word(words, after), 1)
        if scale >= limit:
            break
        total, end, limit = total + value * scale, after + (scale > 1), scale
        if scale == 1:
            break
    return (total, end) if end > at else None


def _below_thousand(words: list[str], at: int) -> _Read:
    """Return a number without a scale: `five`, `forty two`, `two hundred and six`, `two dozen`."""
    if words[at : at + 3] == ["half", "a", _DOZEN]:
        return 6, at + 3
    read = _below_hundred(words, at)
    if read is None:
        return None
    value, end = read
    if _word(words, end) == _DOZEN:
        return value * 12, end + 1
    if _word(words, end) == _HUNDRED:
        value, end = value * 100, end + 1
        more = _words_below_hundred(words, _after_and(words, end))
        return (value + more[0], more[1]) if more else (value, end)
    return value, end


def _below_hundred(words: list[str], at: int) -> _Read:
    word, after = _word(words, at), _word(words, at + 1)
    if after in _AFTER_DIGITS:
        if word in ("a", "an"):
            return 1, at + 1
        if word.isdigit() and len(word) <= _MAX_DIGITS:
            return int(word), at + 1
    return (12, at + 1) if word == _DOZEN else _words_below_hundred(words, at)


def _words_below_hundred(words: list[str], at: int) -> _Read:
    word = _word(words, at)
    if word in _SMALL:
        return _SMALL[word], at + 1
    if word not in _TENS:
        return None
    unit = _SMALL.get(_word(words, at + 1), 0)
    return (_TENS[word] + unit, at + 2) if 0 < unit < 10 else (_TENS[word], at + 1)


def _word(words: list[str], at: int) -> str:
    return words[at] if at < len(words) else ""


def _after_and(words: list[str], at: int) -> int:
    return at + (_word(words, at) == "and")
