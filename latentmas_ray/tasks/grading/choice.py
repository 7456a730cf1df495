"""Kind `choice`: the options of a multiple-choice question, and the letter that an answer chooses."""

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import TYPE_CHECKING

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.grading.answer_text import last_box, normalise, plain, strip_thinking
from latentmas_ray.tasks.question import Question

if TYPE_CHECKING:
    from latentmas_ray.tasks.choices.options import Options

_MAX_MARKERS = 50  # only the last ones of "the answer is" are read
_WINDOW = 300  # characters that are read after "the answer is"
_MIN_TEXT_CHARS = 3  # a shorter option text (5, AB) is recognised only if the line has nothing else

_OPTION_LINE = re.compile(r"^[ \t]*+\(?([A-Za-z])[.):][ \t]*+(?=\S)([^\n]*+)", re.MULTILINE)
_OPTION_INLINE = re.compile(r"(?<![\w(])\(?([A-Za-z])\)[ \t]++(?=\S)")
_MARKER = re.compile(
    r"####|\b(?:answers?|option|choice|diagnosis)\b[^\n.:=]{0,60}?(?:\bis\b|\bbe\b|[:=])"
    r"|\b(?:choose|chose|pick|select|go with|going with)\b",
    re.IGNORECASE,
)
# "Hepatitis B" does not mean option B.
_NAMING = ("vitamin", "hepatitis", "influenza", "group", "type", "class", "factor", "protein", "stage", "grade")
_NOT_NAMED = "".join(f"(?<!{word[1:]} )" for word in _NAMING)  # without the first letter, which may have either case
_VERDICT = re.compile(
    rf"(?<![\w'’]){_NOT_NAMED}"
    r"(?P<letter>[A-Z])[)\]*_`\"'.:]{0,4}[ ](?:is|would be|seems|must be)[ ](?:clearly |indeed )?"
    r"(?:the |also the )?(?:most |single |only )?(?:correct|right|best|likely|appropriate|answer)\b"
)
_LEAD = re.compile(
    r"[\s*_`$(\[\"'>:=-]*+"
    r"(?:(?:the|option|choice|letter|answer|correct|best|is|most likely|probably)\b[\s*_`$(\[\"':]*+){0,4}",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"[A-Za-z]\)?\s?(?:,|and|or|&|/)\s?\(?[A-HJ-Z](?![\w'’])")
_DELIMITED = re.compile(r"([A-Za-z])(?:[)\]*_`\"'$]*+(?:$|\n|[,;:!?]|\.(?![a-z])|\s+[-(])|[)\]*`$])")
_SPACED = re.compile(r"([A-Za-z])\s")
_AFTER_ARTICLE = re.compile(r"\s+(?:because|since|as|which|is|due)\b")  # "A because …" is a letter, "A large …" is not
_ALONE = re.compile(r"[\s*_`$(\[\"'#>-]*+(?:(?:option|choice)\s)?[(*]*+([A-Za-z])[\s*_`$)\]\"'.]*+", re.IGNORECASE)
_LINE_LEAD = re.compile(r"^[\s*_`(\[#>-]{0,8}(?:(?:Option|Choice) )?\(?([A-Za-z])(?:\)|[.:](?=[\s*]))", re.MULTILINE)
_EMPHASISED = re.compile(r"\*\*\(?([A-Za-z])\)?(?:[.:)]|\*\*)")
_PARENTHESISED = re.compile(r"(?<!\w)\(([A-Za-z])\)")
_SINGLE = re.compile(  # not followed by "is wrong" and the like
    rf"(?<![\w'’-]){_NOT_NAMED}"
    r"([B-HJ-Z]|[AI](?=[\s.*]*$))(?![\w'’-]|[.:)]\s?\w)"
    r"(?!\s(?:is|was|seems|looks)\s(?:\w+\s)?(?:wrong|incorrect|false|unlikely|excluded|ruled)\b)"
)
_NEGATION = re.compile(r"\b(?:[Nn]ot|[Cc]annot)\b|n['’]t\b")
_UNDECIDED = re.compile(
    rf"{_NEGATION.pattern}|\b(?:[Ee]ither|[Nn]either)\b|(?<!\w)[A-Z]\)?\s?(?:,|and|or|&|/)\s?\(?[A-HJ-Z](?![\w'’])"
)


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


def extract_choice(answer: str, options: Mapping[str, str]) -> str | None:
    """Return the capital letter that an answer chooses; None if it chooses none or several.

    It is read from the first of these that has one: the last box; the last "the answer is …", "I choose …", "… is
    correct" or "#### …"; a letter alone on the last line; the only line that begins with a letter; the only emphasised
    letter; the only option whose text occurs. Without `options`, every letter of the alphabet is possible.
    """
    answer = strip_thinking(answer)
    box = last_box(answer)
    if box is not None and (letter := choice_letter(box, options)):
        return letter
    if letter := _stated(answer, options):
        return letter
    lines = answer.rstrip().rsplit("\n", 1)
    last_line = lines[-1]
    if (alone := _ALONE.fullmatch(last_line)) and _is_label(alone[1], options):
        return alone[1].upper()
    if letter := _only(_LINE_LEAD, answer, options):
        return letter
    for scope in (last_line, answer):
        for form in (_EMPHASISED, _PARENTHESISED):
            if letter := _only(form, scope, options):
                return letter
        if letter := _mentioned(scope, options):
            return letter
    return None if _UNDECIDED.search(last_line) else _only(_SINGLE, last_line, options)


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
        if match.re is _VERDICT:
            if _is_label(match["letter"], options):
                return match["letter"]
        elif _NEGATION.search(match[0]):  # "the answer cannot be …"
            continue
        elif letter := _leading_letter(plain(answer[match.end() : match.end() + _WINDOW]), options):
            return letter
    return None


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
    if match is not None and _is_label(match[1], options):
        return match[1].upper()
    return _exactly(statement.partition("\n")[0], options)


def _exactly(line: str, options: Mapping[str, str]) -> str | None:
    """Return the only option whose text, of any length, equals the line."""
    line = normalise(line)
    equal = [letter for letter, text in options.items() if line and normalise(plain(text)) == line]
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


def _only(form: re.Pattern[str], scope: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of all matches of `form`, if they agree."""
    letters = {match[1].upper() for match in form.finditer(scope) if _is_label(match[1], options)}
    return letters.pop() if len(letters) == 1 else None


def _mentioned(scope: str, options: Mapping[str, str]) -> str | None:
    """Return the only option whose text occurs in `scope`; a text inside another text found does not count."""
    if letter := _exactly(plain(scope), options):
        return letter
    scope = normalise(plain(scope))
    found = {
        letter: text
        for letter, text in ((letter, normalise(plain(text))) for letter, text in options.items())
        if len(text) >= _MIN_TEXT_CHARS and re.search(rf"(?<!\w){re.escape(text)}(?!\w)", scope)
    }
    whole = [letter for letter, text in found.items() if not any(text in o and text != o for o in found.values())]
    return whole[0] if len(whole) == 1 else None
