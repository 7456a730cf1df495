"""Kind `choice`: the options of a multiple-choice question, and the letter that an answer chooses."""

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import TYPE_CHECKING

from latentmas_ray.errors import TaskError
from latentmas_ray.patterns import LazyPattern
from latentmas_ray.tasks.grading.answer_text import last_box, normalise, plain
from latentmas_ray.tasks.grading.final_part import final_part
from latentmas_ray.tasks.grading.languages import (
    AND_OR,
    BECAUSE,
    BEFORE_LETTER,
    CHOICE_IS,
    CJK,
    IS_RIGHT,
    IS_WRONG,
    NAMED_BEFORE,
    NEGATES,
    with_plain_letters,
)
from latentmas_ray.tasks.grading.number import is_plain_number, parse_number
from latentmas_ray.tasks.question import Question

if TYPE_CHECKING:
    from latentmas_ray.tasks.choices.options import Options

_MAX_MARKERS = 50  # only the last ones of "the answer is" are read
_WINDOW = 300  # characters that are read after "the answer is"
_MIN_TEXT_CHARS = 3  # a shorter option text (5, AB) is recognised only if the line has nothing else
_WRONG_WINDOW = 60  # characters before "is wrong" in which the letters are
_NEGATION_WINDOW = 20  # characters before the text of an option, in which it may be negated

_OPTION_LINE = LazyPattern(r"^[ \t]*+\(?([A-Za-z])[.):][ \t]*+(?=\S)([^\n]*+)", re.MULTILINE)
_OPTION_INLINE = LazyPattern(r"(?<![\w(])\(?([A-Za-z])\)[ \t]++(?=\S)")
_MARKER = LazyPattern(
    r"####|\b(?:answers?|option|choice|diagnosis)\b[^\n.:=]{0,60}?(?:\bis\b|\bbe\b|[:=])"
    rf"|\b(?:choose|chose|pick|select|go with|going with)\b|{CHOICE_IS}",
    re.IGNORECASE,
)
_NOT_NAMED = "".join(
    f"(?<!{word[1:]} )" for word in NAMED_BEFORE
)  # without the first letter, which may have either case
_VERDICT = LazyPattern(
    rf"(?<![\w'’]){_NOT_NAMED}"
    r"(?P<letter>[A-Z])[)\]*_`\"'.:]{0,4}(?:[ ](?:is|would be|seems|must be)[ ](?:clearly |indeed )?"
    r"(?:the |also the )?(?:most |single |only )?(?:correct|right|best|likely|appropriate|answer)\b"
    rf"|[ ]?(?P<other>(?i:{IS_RIGHT})))"
)
_CLAUSE = LazyPattern(r"[^.,;:!?\n]{0,60}")
_LEAD = LazyPattern(
    r"[\s*_`$(\[\"'>:=-]*+"
    rf"(?:(?:l['’])?(?:the|option|choice|letter|answer|correct|best|is|most likely|probably|{BEFORE_LETTER})\b"
    r"[\s*_`$(\[\"':]*+"
    r"|(?-i:a)[ ](?=(?:opção|letra|alternativa|resposta)\b|(?-i:[A-Z]\b))){0,4}",
    re.IGNORECASE,
)
_LIST = rf"(?:,|&|/|\b(?:{AND_OR})\b|(?<=[ {CJK}])(?:[和或与與及とや와과나]|または|또는)(?=[ {CJK}]))"
_SEVERAL = LazyPattern(rf"[A-Za-z]\)?\s?{_LIST}\s?\(?[A-HJ-Z](?![\w'’])")
_DELIMITED = LazyPattern(r"([A-Za-z])(?:[)\]*_`\"'$]*+(?:$|\n|[,;:!?]|\.(?![a-z])|\s+[-(])|[)\]*`$])")
_SPACED = LazyPattern(r"([A-Za-z])\s")
# "A because …" is a letter, "A large …" is not.
_AFTER_ARTICLE = LazyPattern(rf"\s+(?:(?:{BECAUSE})\b|[{CJK}\u0400-\u04ff])")
_ALONE = LazyPattern(r"[\s*_`$(\[\"'#>-]*+(?:(?:option|choice)\s)?[(*]*+([A-Za-z])[\s*_`$)\]\"'.]*+", re.IGNORECASE)
_LINE_LEAD = LazyPattern(r"^[\s*_`(\[#>-]{0,8}(?:(?:Option|Choice) )?\(?([A-Za-z])(?:\)|[.:](?=[\s*]))", re.MULTILINE)
_EMPHASISED = LazyPattern(r"\*\*\(?([A-Za-z])\)?(?:[.:)]|\*\*)")
_PARENTHESISED = LazyPattern(r"(?<!\w)\(([A-Za-z])\)")
_SINGLE = LazyPattern(  # not followed by "is wrong" and the like
    rf"(?<![\w'’-]){_NOT_NAMED}"
    r"([B-HJ-Z]|[AI](?=[\s.*]*$))(?![\w'’-]|[.:)]\s?\w)"
    r"(?!\s(?:is|was|seems|looks)\s(?:\w+\s)?(?:wrong|incorrect|false|unlikely|excluded|ruled)\b)"
)
_NEGATION = LazyPattern(NEGATES, re.IGNORECASE)
_WRONG = LazyPattern(IS_WRONG, re.IGNORECASE)
_NEGATED_END = LazyPattern(rf"(?:{NEGATES})\s(?:\w{{1,6}}\s)?$", re.IGNORECASE)
_DENIED_NEXT = LazyPattern(r"[ ]?(?:ではな|ではあり|じゃな|[이가]?[ ]?아[니닙]|不对|不對|不是|错|錯)")
_UNDECIDED = LazyPattern(
    rf"(?i:{NEGATES})|\b(?:[Ee]ither|[Nn]either)\b|(?<!\w)[A-Z]\)?\s?{_LIST}\s?\(?[A-HJ-Z](?![\w'’])"
)
_LIST_BEFORE = LazyPattern(rf"(?<![\w'’])[A-Z]\)?\s?{_LIST}\s?\(?$")
_SOME_LETTERS = LazyPattern(rf"(?<![\w'’])(?:[A-Z]\)?\s?{_LIST}\s?\(?){{0,5}}[A-Z](?![\w'’])")
_CLAUSE_END = LazyPattern(r"[.;\n]")


def options_of(question: Question) -> dict[str, str]:
    """Return the options by capital letter: from fields of the record, else from the question's text.

    Empty if none are found, or if those in the text lack the gold's letter (then they are not the options).
    """
    if (found := question.options or _of_record(question.record)) is not None:
        return dict(found.texts)
    options = _last_run([(match[1], match[2]) for match in _OPTION_LINE.finditer(question.question)])
    if not options:
        options = _last_run(_inline(question.question))
    gold = (question.gold or "").strip().upper()
    return {} if len(gold) == 1 and gold not in options else options


def choice_letter(text: str, options: Mapping[str, str]) -> str | None:
    """Return the capital letter that a short text such as `b`, `(B)`, `B. Red` or `Red` means; None if unclear."""
    text = plain(text).strip()
    alone = _ALONE.fullmatch(text)
    if alone is not None and _is_label(alone[1], options):
        return alone[1].upper()
    return _leading_letter(text, options)


def extract_choice(answer: str, options: Mapping[str, str], question: str = "") -> str | None:
    """Return the capital letter that an answer chooses; None if it chooses none or several.

    It is read from the first of these that has one: the last box; the last "the answer is …", "I choose …", "… is
    correct" or "#### …", in any of the languages of `languages.py`; a letter alone on the last line; the only line that
    begins with a letter; the only emphasised letter; the only option whose text occurs. Without `options`, every letter
    of the alphabet is possible. `question` is what was asked, which a model may repeat.
    """
    found = final_part(answer, question)
    answer = with_plain_letters(found.text)
    options = {letter: with_plain_letters(text) for letter, text in options.items()}
    box = last_box(answer)
    if box is not None and (letter := choice_letter(box, options)):
        return letter
    if found.is_tagged and (letter := choice_letter(answer, options)):
        return letter
    if letter := _stated(answer, options):
        return letter
    last_line = answer.rstrip().rpartition("\n")[2]
    if (alone := _ALONE.fullmatch(last_line)) and _is_label(alone[1], options):
        return alone[1].upper()
    rejected = _rejected(answer)
    if letter := _only(_LINE_LEAD, answer, options, rejected):
        return letter
    for scope in (last_line, answer):
        for form in (_EMPHASISED, _PARENTHESISED):
            if letter := _only(form, scope, options, rejected):
                return letter
        if letter := _mentioned(scope, options):
            return letter
    return None if _UNDECIDED.search(last_line) else _only(_SINGLE, last_line, options, rejected)


def _of_record(record: Mapping[str, object]) -> "Options | None":
    """Return the options of a question that was made in Python, which are not checked; None if they cannot be read."""
    from latentmas_ray.tasks.choices.options import find_options  # which actors never need

    try:
        return find_options(record, "")
    except TaskError:
        return None


def _inline(text: str) -> list[tuple[str, str]]:
    marks = list(_OPTION_INLINE.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    return [(mark[1], text[mark.end() : end].partition("\n")[0]) for mark, end in zip(marks, ends, strict=False)]


def _last_run(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Return the last series A, B, … of at least two options."""
    last: dict[str, str] = {}
    run: dict[str, str] = {}
    for letter, text in pairs:
        if letter in "Aa":
            run = {}
        if len(run) < len(ascii_uppercase) and letter.upper() == ascii_uppercase[len(run)]:
            run[letter.upper()] = text.strip()
        if len(run) > 1:
            last = run
    return last


def _is_label(letter: str, options: Mapping[str, str]) -> bool:
    return not options or letter.upper() in options


def _stated(answer: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the last statement that has one."""
    found = sorted([*_MARKER.finditer(answer), *_VERDICT.finditer(answer)], key=lambda match: match.start())
    for match in reversed(found[-_MAX_MARKERS:]):
        if "letter" in match.re.groupindex:
            is_one = not _LIST_BEFORE.search(answer, max(0, match.start() - _NEGATION_WINDOW), match.start())
            is_denied = match["other"] and _is_denied(answer, match.end())
            if _is_label(match["letter"], options) and is_one and not is_denied:
                return match["letter"]
        elif _NEGATION.search(match[0]):  # "the answer cannot be …"
            continue
        elif letter := _leading_letter(plain(answer[match.end() : match.end() + _WINDOW]), options):
            return letter
    return None


def _is_denied(text: str, end: int) -> bool:
    """Whether the rest of the clause takes back what was said: `… ist die Antwort nicht`, `…が正解ではない`."""
    clause = _CLAUSE.match(text, end)
    return clause is not None and (_NEGATION.search(clause[0]) or _WRONG.search(clause[0])) is not None


def _rejected(answer: str) -> frozenset[str]:
    """Return the letters of which the answer says that they are wrong: `A, B and D are wrong`."""
    rejected: set[str] = set()
    for wrong in _WRONG.finditer(answer):
        before = _CLAUSE_END.split(answer[max(0, wrong.start() - _WRONG_WINDOW) : wrong.start()])[-1]
        lists = list(_SOME_LETTERS.finditer(before))
        if lists and "," not in before[lists[-1].end() :]:
            rejected |= set(re.findall(r"\b[A-Z]\b", lists[-1][0]))
    return frozenset(rejected)


def _leading_letter(statement: str, options: Mapping[str, str]) -> str | None:
    """Return the letter, or the letter of the option, that a statement begins with."""
    if letter := _leading_text(statement, options):  # before skipping "the", since an option may begin with it
        return letter
    lead = _LEAD.match(statement)
    assert lead is not None  # the pattern matches the empty text
    statement = statement[lead.end() :]
    if _SEVERAL.match(statement):
        return None
    if letter := _leading_text(statement, options):
        return letter
    match = _DELIMITED.match(statement)
    if match is None and (spaced := _SPACED.match(statement)):
        is_article = spaced[1] in "AaIi" and not _AFTER_ARTICLE.match(statement, 1)
        match = None if is_article else spaced
    if match is not None:
        is_denied = _DENIED_NEXT.match(statement, match.end(1))
        return match[1].upper() if _is_label(match[1], options) and not is_denied else None
    line = statement.partition("\n")[0]
    return _exactly(line, options) or _by_value(line, options)


def _exactly(line: str, options: Mapping[str, str]) -> str | None:
    """Return the only option whose text, of any length, equals the line."""
    line = normalise(line)
    equal = [letter for letter, text in options.items() if line and normalise(plain(text)) == line]
    return equal[0] if len(equal) == 1 else None


def _by_value(line: str, options: Mapping[str, str]) -> str | None:
    """Return the only option that is this number, of options that have a unit: 10 means `10 m/s` if no other is 10."""
    line = line.strip(" \t*_`$\"'()[]").rstrip(".,;:!?")
    value = parse_number(line) if is_plain_number(line) else None
    equal = [letter for letter, text in options.items() if value is not None and parse_number(text) == value]
    return equal[0] if len(equal) == 1 else None


def _leading_text(statement: str, options: Mapping[str, str]) -> str | None:
    """Return the option whose text the statement begins with; the longest, since one text may begin with another."""
    start = normalise(statement)
    texts = sorted(
        ((normalise(plain(text)), letter) for letter, text in options.items()), key=lambda pair: -len(pair[0])
    )
    for text, letter in texts:
        if len(text) >= _MIN_TEXT_CHARS and start.startswith(text) and not start[len(text) : len(text) + 1].isalnum():
            return letter
    return None


def _only(
    form: LazyPattern, scope: str, options: Mapping[str, str], rejected: frozenset[str] = frozenset()
) -> str | None:
    """Return the letter of all matches of `form`, if they agree and it is not said to be wrong."""
    letters = {match[1].upper() for match in form.finditer(scope) if _is_label(match[1], options)}
    return letters.pop() if len(letters) == 1 and not letters <= rejected else None


def _mentioned(scope: str, options: Mapping[str, str]) -> str | None:
    """Return the only option whose text occurs in `scope`; a text inside another text found does not count. None if it
    is said not to be that."""
    if letter := _exactly(plain(scope), options):
        return letter
    scope = normalise(plain(scope))
    found = {
        letter: text
        for letter, text in ((letter, normalise(plain(text))) for letter, text in options.items())
        if len(text) >= _MIN_TEXT_CHARS and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", scope)
    }
    whole = [letter for letter, text in found.items() if not any(text in o and text != o for o in found.values())]
    return whole[0] if len(whole) == 1 and not _is_excluded(found[whole[0]], scope) else None


def _is_excluded(text: str, scope: str) -> bool:
    """Whether every mention of a text in a scope is negated: `not Paris`, `Paris is wrong`."""
    return all(
        _NEGATED_END.search(scope[max(0, match.start() - _NEGATION_WINDOW) : match.start()])
        or ((clause := _CLAUSE.match(scope, match.end())) and _WRONG.search(clause[0]))
        for match in re.finditer(re.escape(text), scope)
    )
