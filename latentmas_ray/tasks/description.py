"""What was understood of a task's records: `latentmas tasks NAME|FILE` prints it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from latentmas_ray.tasks.controls.wrong_version import wrong_fields
from latentmas_ray.tasks.files import LoadedTask, load_task
from latentmas_ray.tasks.grading.choice import options_of
from latentmas_ray.tasks.question import Question
from latentmas_ray.tasks.record import Draft

_UNDERSTOOD = {"id", "question", "gold", "kind", "task", "stem"}
_OF_CODE = {"prompt", "test", "entry_point", "test_list", "test_imports"}


@dataclass(frozen=True, kw_only=True)
class TaskDescription:
    """The fields of a task's records and what they mean. Counts are of questions."""

    name: str
    num_records: int
    num_questions: int
    kinds: Mapping[str, int]
    id_fields: Mapping[str, int]  # empty: ids are the numbers of the records
    question_fields: Mapping[str, int]
    option_fields: Mapping[str, int]  # `question` where its text lists them
    num_options: Mapping[int, int]
    gold: str  # the fields, and how they are read; code has tests
    num_golds: int  # including tests
    other_fields: tuple[str, ...]  # which no built-in topology shows
    notes: tuple[str, ...]
    first: Question

    def to_json(self) -> dict[str, Any]:
        """The same, the first question by its id, text and gold."""
        first = {"id": self.first.id, "question": self.first.question, "gold": self.first.gold}
        return {**vars(self), "first": first}


def describe_task(task: str) -> TaskDescription:
    """Return what is understood of all records of a task. Raises TaskError as `load_questions` does."""
    loaded = load_task(task)
    questions, drafts = loaded.questions, loaded.drafts
    options = [found for question in questions if (found := _options(question)) is not None]
    return TaskDescription(
        name=task,
        num_records=loaded.num_records,
        num_questions=len(questions),
        kinds=_counted(question.kind for question in questions),
        id_fields=_counted(draft.id_key for draft in drafts if draft.id_key),
        question_fields=_counted(_question_field(draft) for draft in drafts),
        option_fields=_counted(source for source, _ in options),
        num_options=dict(sorted(Counter(number for _, number in options).items())),
        gold=_gold(loaded),
        num_golds=sum(question.gold is not None or question.kind == "code" for question in questions),
        other_fields=_others(zip(drafts, questions, strict=False)),
        notes=loaded.notes,
        first=questions[0],
    )


def _options(question: Question) -> tuple[str, int] | None:
    """Return where a question has its options, and how many; None if it has none."""
    if question.options is not None:
        return question.options.source, len(question.options.texts)
    options = options_of(question) if question.kind == "choice" else {}
    return ("question", len(options)) if options else None


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _question_field(draft: Draft) -> str:
    return "prompt" if draft.kind == "code" and "prompt" in draft.record else draft.question_key


def _gold(loaded: LoadedTask) -> str:
    plain = _counted(draft.gold_key for draft in loaded.drafts if draft.options is None and draft.gold is not None)
    tests = ["test"] if any(draft.kind == "code" for draft in loaded.drafts) else []
    return "; ".join(filter(None, (loaded.gold_source, ", ".join([*plain, *tests]))))


def _others(read: Iterable[tuple[Draft, Question]]) -> tuple[str, ...]:
    """Return the fields that are neither understood nor shown."""
    others: dict[str, None] = {}
    for draft, question in read:
        known = {*_UNDERSTOOD, draft.id_key, draft.question_key, draft.gold_key}
        known |= set(draft.options.keys) if draft.options is not None else set()
        known |= {*wrong_fields(question.record).values()}
        known |= _OF_CODE if draft.kind == "code" else set()
        others |= dict.fromkeys(key for key in question.record if key not in known)
    return tuple(others)
