"""One question, whatever benchmark it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.grading.code_record import check_code_record

AnswerKind = Literal["number", "choice", "text", "math", "code"]
KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)
KIND_FORM = f"it must be {', '.join(KINDS[:-1])} or {KINDS[-1]}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with its reference answer; `record` is the whole object of the file, for prompts to use.

    Code is graded by the record's `test`, and its `prompt` where that begins the function `entry_point`. Raises
    TaskError, its field `question ID: KEY`, for a value of another type, and where these are missing.
    """

    id: str
    question: str
    kind: AnswerKind
    gold: str | None  # None: not graded
    record: Mapping[str, Any]
    seen_by_others: "Question | None" = None  # what all agents but the answering one see instead of this question

    def __post_init__(self) -> None:
        where = f"question {self.id}: "
        if not isinstance(self.id, str) or not self.id:
            raise TaskError(f"{where}id", self.id, "it must be a non-empty string")
        if not isinstance(self.question, str):
            raise TaskError(f"{where}question", self.question, "it must be a string")
        if self.kind not in KINDS:
            raise TaskError(f"{where}kind", self.kind, KIND_FORM)
        if not isinstance(self.gold, str | None):
            raise TaskError(
                f"{where}gold", self.gold, "it must be a string, or None where there is no reference answer"
            )
        if not isinstance(self.record, Mapping):
            raise TaskError(f"{where}record", self.record, "it must be a mapping, which may be empty")
        if self.kind == "code":
            check_code_record(self.record, where, needs_prompt=False)


@dataclass(frozen=True, kw_only=True)
class Grade:
    """What was read out of an answer, and whether it is right (None where there is no gold)."""

    prediction: str | None
    correct: bool | None
    reason: str = ""  # why code did not pass its tests
