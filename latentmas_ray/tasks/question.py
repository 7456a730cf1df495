"""Question and Grade."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from latentmas_ray.config import HintSource
from latentmas_ray.errors import TaskError
from latentmas_ray.tasks.grading.code_record import check_code_record

if TYPE_CHECKING:
    from latentmas_ray.tasks.choices.options import Options

# How an answer is read and graded: see grading/__init__.py.
AnswerKind = Literal["number", "choice", "text", "math", "code"]
# Whose numbers an answer has: see facts/numbers.py.
NumberSource = Literal["own", "other", "both", "none"]
KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)
KIND_FORM = f"it must be {', '.join(KINDS[:-1])} or {KINDS[-1]}"


class EarlierMessage(NamedTuple):
    """A message of the conversation before a question."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with its reference answer. `record` is its whole object in the file, which prompts can use.

    `options` are those that the record had in fields of their own; `question` shows them.

    Code is graded with the record's `test`, and with its `prompt` if that is the head of the function `entry_point`.
    Raises TaskError, its field `question ID: KEY`, for a value of a wrong type and for missing keys.
    """

    id: str
    question: str
    kind: AnswerKind
    gold: str | None  # None: not graded
    record: Mapping[str, Any]
    options: "Options | None" = None
    seen_by_others: "Question | None" = None  # the question that all agents but the answering one get instead
    corruption: "Corruption | None" = None  # what one agent gets wrongly
    hint: "HintCopy | None" = None  # of a copy of a question: which hint it is for
    system: str = ""  # of the conversation: it follows the system message of every agent
    earlier: tuple[EarlierMessage, ...] = ()  # of the conversation: they stand before the prompt of every agent

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

    def with_earlier(self, system: str, earlier: tuple[EarlierMessage, ...]) -> "Question":
        """Return the same question at the end of a conversation, whose texts are shown as they are."""
        return replace(self, system=system, earlier=earlier) if system or earlier else self


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """A wrong version of a question, which one agent gets instead. Its gold is the answer that follows from it."""

    agent: str
    question: Question


@dataclass(frozen=True, kw_only=True)
class HintCopy:
    """Which of its hints a copy of a question is for: a question has one copy for each hint (`hints.copies`)."""

    question: str  # the id of the question that was copied
    number: int  # from 1
    of: int
    source: HintSource
    text: str | None = None  # the hint, where it is known before a run; None: the abstraction agent makes it
    written_as: str = ""  # the agent as whose text the answering agent reads it; empty: it does not read it as text


@dataclass(frozen=True, kw_only=True)
class Grade:
    """The prediction that was read from an answer, and whether it is right (None without a gold)."""

    prediction: str | None
    correct: bool | None
    reason: str = ""  # why code failed its tests
    adopted: bool | None = None  # whether it is the answer that follows from the corruption; None without one
    numbers_from: NumberSource | None = None  # whose numbers the answer has; None without notes that say so
