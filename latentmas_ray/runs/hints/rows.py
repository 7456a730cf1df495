"""What a row of results has of the hint that its answer was written with."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Protocol

from pydantic import TypeAdapter

from latentmas_ray.config import HintSource
from latentmas_ray.tasks.hints.leaks import has_leak
from latentmas_ray.tasks.question import Question


@dataclass(frozen=True, kw_only=True)
class HintUse:
    """Which hint an answer was written with, and whether that contains the gold."""

    question: str  # the id of the question that the row's is a copy of
    number: int  # from 1
    of: int
    source: HintSource
    text: str | None = None  # the hint that the task wrote; one of an agent's own is among the row's texts
    leaks: bool | None = None  # None: no words to look at, as the hint is memory alone or there is none

    def to_row(self) -> dict[str, Any]:
        """The value of the row's key `hint`."""
        return asdict(self)


_HINT = TypeAdapter(HintUse)


def hint_of_row(value: object) -> HintUse | None:
    """The inverse of `HintUse.to_row`; None for a row without a hint. Raises ValueError for another form."""
    return None if value is None else _HINT.validate_python(value)


def hint_use(question: Question, texts: Sequence[str]) -> HintUse | None:
    """Return what the row of a copy of a question has of its hint; None for a question without hints. `texts` are those
    that agents wrote for the answering agent."""
    hint = question.hint
    if hint is None:
        return None
    words = [*([] if hint.text is None else [hint.text]), *texts]
    return HintUse(
        question=hint.question,
        number=hint.number,
        of=hint.of,
        source=hint.source,
        text=hint.text,
        leaks=any(has_leak(question, text) for text in words) if words else None,
    )


class RowOfQuestion(Protocol):
    """A row of results: an `Answer`."""

    @property
    def id(self) -> str: ...
    @property
    def correct(self) -> bool | None: ...
    @property
    def hint(self) -> HintUse | None: ...


def question_of(row: RowOfQuestion) -> str:
    """Return the id of the question that a row is about: the one of which it has a hint, else its own."""
    return row.id if row.hint is None else row.hint.question


def rows_per_question(rows: Iterable[RowOfQuestion]) -> float:
    """Return how many rows a question has, on average: of one with hints as many as these, else 1; 1 without rows."""
    found = Counter(question_of(row) for row in rows)
    return found.total() / len(found) if found else 1.0


def mean_by_question(rows: Iterable[RowOfQuestion]) -> dict[str, float]:
    """Return the share of each question's graded rows that are right: of one with hints the mean over these, else 0 or
    1. Rows of one question belong together: they are no questions of their own where intervals are computed."""
    found: dict[str, list[bool]] = {}
    for row in rows:
        if row.correct is not None:
            found.setdefault(question_of(row), []).append(row.correct)
    return {name: fmean(each) for name, each in found.items()}
