"""What a row of results has of the hint that its answer was written with."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

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


def base_question(answer_id: str, hint: HintUse | Mapping[str, Any] | None) -> str:
    """Return the id of the question that an answer is about: that of which it has one hint, else its own."""
    if hint is None:
        return answer_id
    return hint.question if isinstance(hint, HintUse) else str(hint.get("question", answer_id))
