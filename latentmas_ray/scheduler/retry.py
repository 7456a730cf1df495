"""When a batch is tried again: what failed, how often its questions have been tried, and the rules.

* A turn that is lost (its actor died, memory it reads is gone) is submitted again, from the last memory that exists. A
  batch that is suspected of killing its actors too often counts as failed.
* A batch that failed is split: each of its questions is tried again alone. A question alone is tried `max_attempts`
  times in all; then it fails for good.
"""

from dataclasses import dataclass

from latentmas_ray.errors import LatentMASError, TurnError
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.events import TurnFailed, TurnLost

MAX_ERROR_CHARS = 500


@dataclass(frozen=True)
class RetryState:
    """A batch in the queue: how often its questions have been tried with this one, and since when."""

    batch: Batch
    number: int = 1
    admitted_at: float | None = None  # on the driver's clock, of the first attempt

    def can_rewind(self, num_losses: int, max_losses: int) -> bool:
        """Whether lost turns of the batch are submitted again, after `num_losses` of which it may be the cause. Each
        further attempt gets a smaller share of `max_losses`."""
        return num_losses <= max(1, max_losses // self.number)

    def is_exhausted(self, max_attempts: int) -> bool:
        """Whether a failure is final: of a question that was alone and has had its attempts."""
        return len(self.batch.questions) == 1 and self.number >= max_attempts

    def split(self) -> list["RetryState"]:
        """The open questions, each to be tried again alone."""
        return [RetryState(single, self.number + 1, self.admitted_at) for single in self.batch.split()]


@dataclass(frozen=True, kw_only=True)
class TurnFailure:
    """Why a turn has no result, without the error itself."""

    agent: str
    reason: str  # one line of bounded length
    is_loss: bool = False  # the turn can be submitted again as it was
    lacks_memory: bool = False
    is_suspect: bool = False

    @classmethod
    def of(cls, event: TurnFailed | TurnLost) -> "TurnFailure":
        """Build from the event that reported it."""
        if isinstance(event, TurnFailed):
            return cls(agent=event.handle.agent, reason=_one_line(str(event.error) or type(event.error).__name__))
        return cls(
            agent=event.handle.agent,
            reason=_one_line(event.reason),
            is_loss=True,
            lacks_memory=event.lacks_memory,
            is_suspect=event.is_suspect,
        )


def is_retried(error: LatentMASError) -> bool:
    """Whether the batch of a turn that failed with this is tried again; any other error ends its run, or all runs."""
    return isinstance(error, TurnError)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_ERROR_CHARS else line[: MAX_ERROR_CHARS - 1] + "…"
