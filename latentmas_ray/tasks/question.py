"""One question, whatever benchmark it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

AnswerKind = Literal["number", "choice", "text", "math", "code"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with its reference answer; `record` is the whole object of the file, for prompts to use."""

    id: str
    question: str
    kind: AnswerKind
    gold: str | None  # None: not graded
    record: Mapping[str, Any]
    seen_by_others: "Question | None" = None  # what all agents but the answering one see instead of this question


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What was read out of an answer, and whether it is right (None where there is no gold)."""

    prediction: str | None
    correct: bool | None
    reason: str = ""  # why code did not pass its tests
