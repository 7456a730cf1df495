"""Finds the part of an answer that states the final answer: between answer tags, and before a new question that the
model has asked itself. Every function takes linear time."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from latentmas_ray.patterns import LazyPattern
from latentmas_ray.tasks.grading.thinking import is_mark, strip_thinking

_QUOTES = "\"'`“”‘’"
_TAG = LazyPattern(
    r"<[ ]?(?P<close_tag>/)?[ ]?(?:(?P<answer>(?:final[_ -]?)?answer|ans)|(?P<region>solution|conclusion|final|output"
    r"|(?:final[_ -]?)?result))"
    r"(?:\s[^<>]{0,200})?[ ]?>"
    r"|\[(?P<close_bracket>/)?(?P<answer_bracket>(?:FINAL[_ ])?ANSWER)\]"
    r"|<\|(?:(?P<close_box>end)|begin)_of_box\|>",
    re.IGNORECASE,
)

_ASKS = (  # words that begin a question, in the languages in which answers are read
    r"question|problem|exercise|query|quiz|riddle|frage|aufgabe|übung|exercice|problème|pregunta|problema|ejercicio"
    r"|domanda|esercizio|pergunta|questão|exercício|вопрос|задача|задание|问题|問題|题目|題目|例题|例題|質問|질문|문제|vraag|pytanie|soru"
)
_SPEAKS = r"user|human|instruction|用户|用戶|ユーザー|사용자|пользователь"
_NEXT = (
    r"(?:the |an? )?(?:next|new|another|further)|nächste|neue|prochaine|nouvelle|siguiente|nueva|prossima|nuova|próxima"
    r"|nova|следующий|новый"
)
_MARKS = r"[\])*_]{0,4}"
# The beginning of a line that asks a new question, or that gives the other side of a talk the word.
_NEW_QUESTION = LazyPattern(
    r"(?:(?<=\n)|\A)[ \t]{0,8}(?:[#>*_\[(-]{1,6}[ \t]{0,4})?(?:"
    rf"(?:here(?: is|['’]s) )?(?:(?:{_NEXT})[ \t])?(?:{_ASKS}|q|问|問)[ \t]{{0,4}}"
    r"[#№]?(?P<number>[0-9]{1,4})?[ \t]{0,2}"
    rf"(?:{_MARKS}[ \t]{{0,2}}[:：]|(?<=[0-9])[.)\]*_]{{0,4}}(?=[ \t\n]|$)|(?<=q)\.(?=[ ]))"
    r"|(?:example|task|beispiel|exemple|ejemplo|esempio|exemplo|пример|例|예제)[ \t]{0,2}[#№]?"
    rf"(?P<example>[0-9]{{1,4}})[ \t]{{0,2}}{_MARKS}[:：]"
    rf"|(?:{_SPEAKS})[ \t]{{0,2}}{_MARKS}[ \t]{{0,2}}[:：]"
    r"|<\|(?:im_start\|>\s?)?(?:user|human)(?:\|>)?|<\|start_header_id\|>user|<(?:start_of_turn>user|question>)|\[INST\]"
    r")",
    re.IGNORECASE,
)
_OVER = LazyPattern(r"<\|(?:endoftext|end_of_text|eot_id)\|>|</s>|<eos>|<end_of_turn>")  # the end, written out
_STATED = LazyPattern(
    r"####|\\f?boxed|\\fbox|<answer"
    r"|\b(?:answers?|antwort|lösung|réponse|respuesta|solución|risposta|soluzione|resposta|ответ)\b[^\n.]{0,60}?"
    r"(?:\b(?:is|are|ist|lautet|est|es|é|это)\b|[è:=：])"
    r"|(?:答案|答え|正解|정답|答)[^\n。]{0,20}?[是为為はは은는：:]",
    re.IGNORECASE,
)
_FINAL = LazyPattern(r"####|\\f?boxed|\\fbox|\banswers?(?: is\b|:)", re.IGNORECASE)
_PARAGRAPH_END = LazyPattern(r"\n[ \t]*\n\s*")
_RECONSIDERS = LazyPattern(
    r"\b(?:wait|check|verif\w*|correct|right|sure|mistake|error|hmm|actually|reconsider|double|again|but|however)\b",
    re.IGNORECASE,
)
_WORD = LazyPattern(r"[^\W\d_]{3,}|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_COMMON = frozenset(  # words of any question
    word
    for words in (
        "how many much what which who why when where the and are does did has have had was were will would for with",
        "from that this there she his her him they them their each all per get gets give more than then now one two",
    )
    for word in words.split()
)
_QUESTION_END = LazyPattern(r"[?？]|\n")
_SAME_SHARE = 0.7  # with so many of its words in the question, a line asks that question again, or a part of it
_MIN_QUESTION_WORDS = 5
_QUESTION_WINDOW = 400


class FinalPart(NamedTuple):
    """The text that states the final answer. Tagged: it is all that a pair of answer tags holds."""

    text: str
    is_tagged: bool


def final_part(answer: str, question: str = "") -> FinalPart:
    """Return what states the final answer: without thinking and without what follows a new question, the content of the
    last answer tag if there is one, else everything. Empty if the tags are.

    `question` is what was asked: a model may repeat it before it answers.
    """
    found = FinalPart(before_new_question(strip_thinking(answer), question), False)
    for group in ("region", "answer"):  # <solution> may hold an <answer>
        if tags := list(_tags(found.text, group)):
            found = _last_content(found.text, tags)
    return found


def is_answer_mark(token: str) -> bool:
    """Whether a token of a tokenizer says where thinking or the final answer begins or ends."""
    return is_mark(token) or _TAG.fullmatch(token.strip()) is not None


def before_new_question(text: str, question: str = "") -> str:
    """Return the text before the first line that asks a new question: what a model without a chat template writes on
    after its answer. A repetition of `question`, and a series of numbered steps from 1 on, is no new one."""
    end = new_question_at(text, question)
    return text if end is None else text[:end].rstrip()


def new_question_at(text: str, question: str = "") -> int | None:
    """Return where the text begins that `before_new_question` leaves out; None without a new question."""
    begin = len(text) - len(text.lstrip())
    if (over := _OVER.search(text, begin + 1)) is not None:
        text = text[: over.start()]
    found = _new_question_at(text, set(_words(question)), has_question=bool(question))
    return over.start() if found is None and over is not None else found


def _new_question_at(text: str, own: set[str], *, has_question: bool) -> int | None:
    begin = len(text) - len(text.lstrip())
    is_series, has_stated, done = False, False, 0
    for match in _NEW_QUESTION.finditer(text):
        has_stated = has_stated or _STATED.search(text, done, match.start()) is not None
        done = match.start()
        number = match["number"] or match["example"]
        is_series = is_series or (number == "1" and not has_stated)  # it divides the question into numbered ones
        if is_series and number:
            continue
        is_own = _is_within(text[match.end() : match.end() + _QUESTION_WINDOW], own)
        if match.start() <= begin:
            if has_question and not is_own:
                return 0  # it has not answered, but asked
        elif not is_own or has_stated:
            return min(match.start(), _new_paragraph_at(text, own) or len(text))
    return _new_paragraph_at(text, own)


def _new_paragraph_at(text: str, own: set[str]) -> int | None:
    """Return where a paragraph begins that asks something else, between one final answer and another."""
    finals = [match.start() for match in _FINAL.finditer(text)]
    if len(finals) < 2:
        return None
    for gap in _PARAGRAPH_END.finditer(text, finals[0], finals[-1]):
        paragraph = text[gap.end() : gap.end() + _QUESTION_WINDOW].partition("\n\n")[0]
        end = re.search(r"[?？]", paragraph)
        if end is None or len(_words(asked := paragraph[: end.start()])) < _MIN_QUESTION_WORDS:
            continue
        if not (_RECONSIDERS.search(asked) or _FINAL.search(asked) or _is_within(asked, own)):
            return gap.start()
    return None


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _is_within(asked: str, own: set[str]) -> bool:
    """Whether the question at the beginning of a text has most of its words from the words `own`."""
    asked = asked.lstrip(" \t\n*_:")
    end = _QUESTION_END.search(asked)
    words = set(_words(asked[: end.start()] if end else asked)) - _COMMON
    return bool(own) and len(words & own) >= _SAME_SHARE * len(words)


def _tags(text: str, group: str) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, closes) of the tags of a group. A tag in quotes is spoken of, and is none."""
    for match in _TAG.finditer(text):
        around = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        if (match["region"] is None) == (group == "region") or all(one and one in _QUOTES for one in around):
            continue
        yield match.start(), match.end(), bool(match["close_tag"] or match["close_bracket"] or match["close_box"])


def _last_content(text: str, tags: list[tuple[int, int, bool]]) -> FinalPart:
    """Return the content of the last pair that has one. The opening tag may stand in the prompt; a closing one that is
    missing stands at the end."""
    found = FinalPart("", True)
    opened: int | None = None
    last = 0
    for start, end, closes in tags:
        if not closes:
            opened = end
            continue
        if content := text[last if opened is None else opened : start].strip():
            found = FinalPart(content, opened is not None)
        opened, last = None, end
    return found if opened is None else FinalPart(text[opened:].strip(), True)
