"""Converts what the Python API is given to `Question`s: texts, records, and questions."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.choices.options import find_options
from latentmas_ray.tasks.inference import Inference, with_letter
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.record import Draft, check_record, find_id


def questions_from(given: Iterable[Question | Mapping[str, Any] | str]) -> list[Question]:
    """Convert what the Python API is given, in that order. A question without an id gets `q{index}`, or `q{index}_2`
    and so on if that is in use. All records together show how their golds count options.

    Raises TaskError as `question_from` does; for a repeated id, with the field `questions[INDEX]: id`; and for a single
    question, whose characters or keys would be taken for questions.
    """
    if isinstance(given, str | Mapping | Question) or not isinstance(given, Iterable):
        raise TaskError("questions", given, "it must be a list of questions; write a single one in brackets")
    asked = list(given)
    drafts: dict[int, Draft | Question] = {}
    index_of_id: dict[str, int] = {}
    for index, one in enumerate(asked):
        if isinstance(one, Question) or (isinstance(one, Mapping) and find_id(one) is not None):
            draft = _draft(one, index)
            if (other := index_of_id.setdefault(draft.id, index)) != index:
                expected = f"ids must differ; questions[{other}] has the same"
                raise TaskError(f"questions[{index}]: id", draft.id, expected)
            drafts[index] = draft
    for index, one in enumerate(asked):
        if index not in drafts:
            names = (f"q{index}" if number == 1 else f"q{index}_{number}" for number in count(1))
            free = next(name for name in names if name not in index_of_id)
            drafts[index] = _draft(one, index, free)
    finished = _finished([drafts[index] for index in range(len(asked))])
    return [_updated(one, question) for one, question in zip(asked, finished, strict=True)]


def question_from(record: Question | Mapping[str, Any] | str, *, index: int, default_id: str | None = None) -> Question:
    """Convert a record, or a plain string (kind text, no gold). A `Question` is checked and returned. The default id is
    `default_id`, or `q{index}`.

    A record without a kind gets that of its `task`, else one inferred from its gold; choice if it has options. Raises
    TaskError, its field `questions[INDEX]: KEY`.
    """
    return _updated(record, _finished([_draft(record, index, default_id)])[0])


def _draft(record: Question | Mapping[str, Any] | str, index: int, default_id: str | None = None) -> Draft | Question:
    where = f"questions[{index}]"
    if isinstance(record, Question):
        return _draft_of(record, f"{where}: ")
    if isinstance(record, str):
        record = {"question": record}
    if not isinstance(record, Mapping):
        raise TaskError(where, record, "a question must be a string or a mapping with a question")
    return check_record(record, where=f"{where}: ", default_id=default_id or f"q{index}")


def _draft_of(question: Question, where: str) -> Draft | Question:
    """Return the draft of a question whose options are in its record only, else the question, checked."""
    if question.kind != "choice" or question.options is not None:
        return question
    options = find_options(question.record, where)
    if options is None:
        return with_letter(question, f"{where}gold")
    record = {**question.record, "gold": question.gold}
    return Draft(
        where=where,
        id=question.id,
        question=question.question,
        gold=None,
        kind="choice",
        record=record,
        options=options,
    )


def _finished(drafts: list[Draft | Question]) -> list[Question]:
    inference = Inference()
    for draft in drafts:
        if isinstance(draft, Draft):
            inference.add(draft)
    inference.decide()
    return [draft if isinstance(draft, Question) else inference.question(draft) for draft in drafts]


def _updated(given: object, question: Question) -> Question:
    """Return a question that was given as such, with what is new in it."""
    if not isinstance(given, Question):
        return question
    if (given.question, given.gold) == (question.question, question.gold):
        return given
    return replace(
        given, question=question.question, gold=question.gold, record=question.record, options=question.options
    )
