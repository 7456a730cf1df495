"""What a user should know about the questions of a file before a run: one line for each remark."""

from collections.abc import Iterator, Sequence

from latentmas_ray.tasks.choices.fields import CONTEXT_NAMES, GOLD_NAMES, WEAK_OPTION_NAMES, keys_by_name
from latentmas_ray.tasks.grading.choice import choice_letter, options_of
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.record import Draft

_MIN_ONE_LETTER = 10  # so many golds with one letter are no accident


def remarks(name: str, drafts: Sequence[Draft], questions: Sequence[Question]) -> Iterator[str]:
    """Yield the remarks on a file's questions and the drafts that they were made of.

    Questions of kind choice without options; texts that the questions are about and no built-in topology shows; files
    without golds though with fields that look like golds; files whose right options all have the same letter.
    """
    bare = [question.id for question in questions if question.kind == "choice" and not options_of(question)]
    if bare:
        told = f"{name}: of kind choice but without options that are found: {len(bare)} (the first: {bare[0]})"
        yield f"{told}; agents see only the question's text"
    hidden = {key: draft.id for draft in reversed(drafts) for key in _hidden_texts(draft)}
    if hidden:
        first = next(iter(hidden.values()))
        expected = "no built-in topology shows it; put it into the question, or into a topology of your own"
        yield f"{name}: question {first} has {', '.join(sorted(hidden))}; {expected}"
    if all(question.gold is None and question.kind != "code" for question in questions):
        keys = {key: None for draft in drafts for key in _golds(draft)}
        if keys:
            yield f"{name}: no gold is read from {', '.join(keys)}; answers are not graded unless records have gold"
    letters = [choice_letter(question.gold or "", options_of(question)) for question in questions if question.options]
    if len(letters) >= _MIN_ONE_LETTER and len(set(letters)) == 1 and letters[0] is not None:
        yield f"{name}: the right option is {letters[0]} in all {len(letters)} choices; their order gives it away"


def _hidden_texts(draft: Draft) -> Iterator[str]:
    """Yield the fields with texts that a question is about, but does not contain."""
    for name, key in keys_by_name(draft.record).items():
        text = draft.record[key]
        if name in CONTEXT_NAMES and isinstance(text, str) and text.strip() and text.strip() not in draft.question:
            yield key


def _golds(draft: Draft) -> Iterator[str]:
    """Yield the fields that may hold a gold, and have something."""
    for name, key in keys_by_name(draft.record).items():
        if name in {*GOLD_NAMES, *WEAK_OPTION_NAMES} and draft.record[key] not in (None, "", [], {}):
            yield key
