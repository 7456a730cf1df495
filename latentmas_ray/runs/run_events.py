"""What happens in a run, as events, of which an observer gets each one.

What a runtime reports to the scheduler is another stream. The order is `RunStarted`, then everything else as it
happens, then `RunEnded`. Events are frozen and may be kept.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.engine.turn import TurnResult


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """The runtime is up, and the run begins."""

    description: str  # of the runtime: its actors and where they are
    num_questions: int
    num_done: int  # of them, that an earlier run had answered


@dataclass(frozen=True, kw_only=True)
class TurnFinished:
    """An agent has finished its turn over a batch."""

    report: TurnResult


@dataclass(frozen=True, kw_only=True)
class TurnRepeated:
    """A turn was lost with its actor or with memory that it reads, and is carried out again."""

    agent: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class QuestionAnswered:
    """A question has its answer; the `RunProgress` that follows counts it."""

    answer: Answer


@dataclass(frozen=True, kw_only=True)
class MemoryFinished:
    """A question's working memory is complete, in a run that asks for memory and not for answers."""

    question_id: str


@dataclass(frozen=True, kw_only=True)
class QuestionFailed:
    """A question could not be answered."""

    failure: Failure


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """A snapshot of a run, a few times a second."""

    num_questions: int
    num_done: int
    num_failed: int
    batches_in_flight: int
    memory_in_flight_bytes: int  # of segments that exist, of all runs at this time
    tokens: int  # prompt, latent and output tokens processed so far in this run
    seconds: float  # since the run started


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """The last event, whatever ended the run."""


RunEvent = (
    RunStarted
    | TurnFinished
    | TurnRepeated
    | QuestionAnswered
    | MemoryFinished
    | QuestionFailed
    | RunProgress
    | RunEnded
)


@runtime_checkable
class Observer(Protocol):
    """Listens to runs: a progress bar, log lines, metrics.

    It is called in the thread that drives the run at that moment, and the run waits for it. An exception that it raises
    ends the run, and is raised where the results of that run are fetched; other runs go on.
    """

    def on_event(self, event: RunEvent) -> None: ...
