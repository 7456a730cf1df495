"""The leak check: whether a hint contains the gold. A hint that does is no strategy, it is the answer.

It needs the gold, so it belongs to evaluation. The rule is strict: it does not ask where the hint has the gold from. A
plan that begins with "start with 5" leaks if the answer happens to be 5, too.

number  a number of the hint has the value of the gold, in digits of any form (`1,000`, `18.00`, `36/2`) or in words
choice  the hint, read as an answer, chooses the gold; or it has the text of the right option and of no other
text    the gold is in the hint as whole words, normalised; of a gold with several parts, all parts; numbers by value
math    as text, without spaces and LaTeX around it
code    the hint has a program that defines what the tests call
"""

import re
from fractions import Fraction

from latentmas_ray.patterns import LazyPattern
from latentmas_ray.tasks.grading.answer_text import last_box_source, normalise, plain
from latentmas_ray.tasks.grading.choice import choice_letter, extract_choice, options_of
from latentmas_ray.tasks.grading.code import defined_by
from latentmas_ray.tasks.grading.languages import CJK
from latentmas_ray.tasks.grading.number import is_plain_number, numbers_in, parse_number
from latentmas_ray.tasks.grading.text import split_parts
from latentmas_ray.tasks.hints.number_words import numbers_in_words
from latentmas_ray.tasks.question import Question

_BOX = LazyPattern(r"\\{1,2}(?:boxed|fbox|framebox)(?![A-Za-z])")


def has_leak(question: Question, hint: str) -> bool:
    """Return whether a hint contains the gold of the question. False without a gold."""
    if question.kind == "code":
        return defined_by(question, hint)
    if question.gold is None or not hint.strip():
        return False
    if question.kind == "choice":
        return _has_option(question, hint)
    gold = last_box_source(question.gold) or question.gold if question.kind == "math" else question.gold
    return _has_text(gold, hint, is_latex=question.kind == "math")


def _has_option(question: Question, hint: str) -> bool:
    options = options_of(question)
    letter = choice_letter(question.gold or "", options)
    if letter is None:
        return _has_text(question.gold or "", hint)
    if extract_choice(hint, options) == letter:
        return True
    return [name for name, text in options.items() if text.strip() and _has_text(text, hint)] == [letter]


def _has_text(gold: str, hint: str, *, is_latex: bool = False) -> bool:
    """Whether a text has the gold, or all parts of it."""
    if is_plain_number(plain(gold)) and (value := parse_number(gold)) is not None:
        return value in _numbers(hint)
    if is_latex:
        return _has_words(plain(gold).replace("$", "").casefold(), plain(hint).casefold(), between=r"\s*")
    if _has_words(normalise(plain(gold)), normalise(plain(hint))):
        return True
    parts = split_parts(gold)
    return len(parts) > 1 and all(_has_text(part, hint) for part in parts)


def _numbers(text: str) -> set[Fraction]:
    return {*numbers_in(_BOX.sub(" ", text)), *map(Fraction, numbers_in_words(text))}


def _has_words(gold: str, hint: str, between: str = "") -> bool:
    """Whether `hint` has `gold` and not only as part of a word or number. With a pattern `between`, spaces do not count
    and that may be between any two characters."""
    characters = [one for one in gold if not (between and one.isspace())]
    if not characters:
        return False
    before = rf"(?<![^\W{CJK}])" if _in_word(characters[0]) else ""
    after = rf"(?![^\W{CJK}])" if _in_word(characters[-1]) else ""
    return re.search(before + between.join(map(re.escape, characters)) + after, hint) is not None


def _in_word(character: str) -> bool:
    """Whether a word has to end before another such character; not in scripts without spaces."""
    return re.fullmatch(rf"[^\W{CJK}]", character) is not None
