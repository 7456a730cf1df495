"""The rules of retries.

* A lost turn (its actor died, or memory that it reads is lost) is submitted again, and so are the turns whose segments
  it needs and that no longer exist. A batch that loses too many turns by its own suspected fault counts as failed:
  so many of one agent, by the death of its actor or for lack of memory. What an agent loses says nothing of another's
  turn: a node that dies takes the actor of one and the memory of the next, and each finds out by itself.
* A batch with questions that do not fit the model's positions loses those, which fail at once, and is tried again
  with the others together. Of several answering agents one whose positions are too few has no answer to them.
* A question that could not be written, in a turn that wrote the others, leaves its batch and is retried alone.
* Any other failed batch is split: each of its questions is retried alone. A question fails for good after
  `max_attempts` attempts in total.
* An actor that writes several turns at the same time may die of another one than that which is suspected. So the
  questions of a batch that failed with its actor are retried while nothing else is in flight, and an actor that died
  while several batches were in flight is no question's last attempt.

Questions that are answered, or left their batch earlier, are never tried again with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from latentmas_ray.errors import LatentMASError, QuestionsTooLongError, TurnError
from latentmas_ray.scheduler.batch import Batch
from latentmas_ray.scheduler.protocol import TurnFailed, TurnLost

MAX_ERROR_CHARS = 500


@dataclass(frozen=True)
class RetryState:
    """A batch in the queue, with the number of its attempt and the time of the first attempt."""

    batch: Batch
    number: int = 1
    admitted_at: float | None = None  # of the first attempt, in seconds of the scheduler's clock
    runs_alone: bool = False  # while nothing else is in flight, so that a dead actor has died of it

    def can_resubmit_lost_turns(self, num_losses: int, max_losses: int) -> bool:
        """Return whether lost turns are submitted again, after `num_losses` of one agent and kind that the batch may
        have caused. The limit is `max_losses` divided by the number of the attempt, and at least 1."""
        return num_losses <= max(1, max_losses // self.number)

    def after(
        self, failure: "TurnFailure", max_attempts: int, *, others_vote: bool = False
    ) -> tuple[list["RetryState"], dict[str, str]]:
        """Return the attempts that follow a failure, and the questions that failed for good, each with its reason.
        `others_vote`: the agent that failed is one of several that answer."""
        if failure.refused:
            ids = [question.id for question in self.batch.open_questions if question.id in failure.refused]
            left = self.batch.without(failure.refused.keys())
            others = [replace(self, batch=left)] if left.open_questions else []
            if others_vote and self.number < max_attempts:  # its last attempt: without the answer of that agent
                alone = [one for one in self.batch.split() if one.questions[0].id in failure.refused]
                return [*others, *(replace(self, batch=one, number=max_attempts) for one in alone)], {}
            return others, {name: failure.refused[name] for name in ids}
        with_actor = failure.is_loss and not failure.lacks_memory
        is_doubtful = with_actor and not self.runs_alone
        if self.has_failed_for_good(max_attempts) and not is_doubtful:
            return [], {self.batch.questions[0].id: failure.reason}
        return self.split(runs_alone=with_actor), {}

    def after_some(self, failed: Mapping[str, str], max_attempts: int) -> tuple[list["RetryState"], dict[str, str]]:
        """Like `after`, for questions that failed alone (each with its reason); the batch continues without them."""
        reasons = {name: _one_line(why) for name, why in failed.items()}
        if self.number >= max_attempts:
            return [], reasons
        return [one for one in self.split() if one.batch.questions[0].id in reasons], {}

    def has_failed_for_good(self, max_attempts: int) -> bool:
        """Return whether a failure is final: the question was alone in its batch and has had all its attempts."""
        return len(self.batch.questions) == 1 and self.number >= max_attempts

    def split(self, *, runs_alone: bool = False) -> list["RetryState"]:
        """Return one retry for each open question, alone in its batch."""
        number, runs_alone = self.number + 1, runs_alone or self.runs_alone
        return [replace(self, batch=one, number=number, runs_alone=runs_alone) for one in self.batch.split()]


@dataclass(frozen=True, kw_only=True)
class TurnFailure:
    """Why a turn has no result; holds no exception."""

    agent: str
    reason: str  # one line of bounded length
    is_loss: bool = False  # the turn can be submitted again
    lacks_memory: bool = False
    is_suspect: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)  # by question that can never fit: why

    @classmethod
    def of(cls, event: TurnFailed | TurnLost) -> "TurnFailure":
        """Build from the event of the turn."""
        if isinstance(event, TurnFailed) and isinstance(event.error, QuestionsTooLongError):
            # The turns that read it fail with its error, so their handles may name another agent.
            refused = {name: _one_line(why) for name, why in event.error.reasons.items()}
            return cls(agent=event.error.agent, reason=_one_line(str(event.error)), refused=refused)
        if isinstance(event, TurnFailed):
            return cls(agent=event.handle.agent, reason=_one_line(str(event.error) or type(event.error).__name__))
        return cls(
            agent=event.handle.agent,
            reason=_one_line(event.reason),
            is_loss=True,
            lacks_memory=event.lacks_memory,
            is_suspect=event.is_suspect,
        )


def is_batch_retried(error: LatentMASError) -> bool:
    """Return whether a batch is retried after this error of a turn; any other error ends its run, or all runs."""
    return isinstance(error, TurnError)


def actor_died(event: TurnFailed | TurnLost) -> bool:
    """Return whether the turn was lost with its actor."""
    return isinstance(event, TurnLost) and not event.lacks_memory


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_ERROR_CHARS else line[: MAX_ERROR_CHARS - 1] + "…"
