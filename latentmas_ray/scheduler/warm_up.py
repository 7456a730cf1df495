"""How long a start needs until it is at its usual speed."""

from collections.abc import Sequence

from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.scheduler.batch import Batch


class WarmUp:
    """Watches the results of one start. Its warm-up is over when as many batches are settled as the agent with the most
    replicas has of them: by then every actor has, as a rule, had its first turn, with all that is only done once."""

    def __init__(self, batches: Sequence[Batch], num_replicas: int = 1) -> None:
        self.seconds: float | None = None  # how long the warm-up took; None while it lasts
        self.num_answers_after = 0
        self._left = num_replicas
        self._batch_of = {question.id: batch.number for batch in batches for question in batch.open_questions}
        self._num_open = {batch.number: len(batch.open_questions) for batch in batches}

    def settle(self, result: Answer | Failure, seconds: float) -> None:
        """A question has its answer, or is given up, so many seconds after the start."""
        if self.seconds is not None:
            self.num_answers_after += isinstance(result, Answer)
            return
        number = self._batch_of[result.id]
        self._num_open[number] -= 1
        self._left -= not self._num_open[number]
        if not self._left:
            self.seconds = seconds
