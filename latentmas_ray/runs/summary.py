"""From the answers of a run to its figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from latentmas_ray.config import RunConfig
from latentmas_ray.runs.accounting import agent_figures, hand_over_figures
from latentmas_ray.runs.results import Answer, Failure, Summary, mean_or_zero
from latentmas_ray.stats import accuracy_interval


class WarmUp:
    """Watches the results of one start. Its warm-up is over when as many batches are settled as the agent with the most
    replicas has of them: by then every actor has, as a rule, had its first turn, with all that is only done once."""

    def __init__(self, batches: Sequence[Sequence[str]], num_replicas: int = 1) -> None:
        """`batches` are the ids of the questions that each batch has still to answer."""
        self.seconds: float | None = None  # how long the warm-up took; None while it lasts
        self.num_answers_after = 0
        self._left = num_replicas
        self._batch_of = {question: number for number, batch in enumerate(batches) for question in batch}
        self._num_open = [len(batch) for batch in batches]

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


def summarise(
    answers: Sequence[Answer],
    failures: Sequence[Failure],
    *,
    config: RunConfig,
    seconds: float,
    num_resumed: int = 0,
    warm_up: WarmUp | None = None,
    made_with: Mapping[str, str] | None = None,
) -> Summary:
    """The figures of a whole run.

    `answers` are those of the whole journal, of which `num_resumed` were there before this start; `seconds` is the
    wall clock since, and `warm_up` has watched it; `made_with` is what the function of this name tells. Accuracy is
    over the questions that could be graded; a failed question is not among them.
    """
    graded = [answer.correct for answer in answers if answer.correct is not None]
    return Summary(
        method=config.method,
        topology=config.topology,
        model=config.model,
        memory=config.memory,
        num_questions=len(answers) + len(failures),
        num_failed=len(failures),
        accuracy=mean_or_zero(graded) if graded else None,
        accuracy_interval=accuracy_interval(graded) if graded else None,
        prompt_tokens_per_question=mean_or_zero([answer.prompt_tokens for answer in answers]),
        latent_steps_per_question=mean_or_zero([answer.latent_tokens for answer in answers]),
        output_tokens_per_question=mean_or_zero([answer.output_tokens for answer in answers]),
        memory_bytes_per_question=mean_or_zero([answer.memory_bytes for answer in answers]),
        moved_bytes=sum(transfer.moved_bytes for answer in answers for transfer in answer.transfers),
        codec=config.codec,
        relative_error=max(
            (transfer.relative_error for answer in answers for transfer in answer.transfers), default=0.0
        ),
        exposed_seconds=mean_or_zero(
            [
                sum(transfer.exposed_seconds for transfer in answer.transfers if transfer.reader == reader)
                for answer in answers
                for reader in dict.fromkeys(transfer.reader for transfer in answer.transfers)
            ]
        ),
        seconds=seconds,
        questions_per_second=(len(answers) - num_resumed) / seconds if seconds > 0 else 0.0,
        num_resumed=num_resumed,
        **_after_warm_up(seconds, warm_up),
        agents=agent_figures(answers),
        hand_overs=hand_over_figures(answers),
        num_alarmed=sum(any(use.alarms for use in answer.agents.values()) for answer in answers),
        alarms=dict(Counter(name for answer in answers for name, use in answer.agents.items() if use.alarms)),
        made_with=made_with or {},
    )


def _after_warm_up(seconds: float, warm_up: WarmUp | None) -> dict[str, Any]:
    """Nothing where the warm-up did not end, or no answer came after it."""
    if warm_up is None or warm_up.seconds is None:
        return {}
    after = seconds - warm_up.seconds
    if not warm_up.num_answers_after or after <= 0:
        return {"warm_up_seconds": warm_up.seconds}
    return {
        "warm_up_seconds": warm_up.seconds,
        "seconds_after_warm_up": after,
        "questions_per_second_after_warm_up": warm_up.num_answers_after / after,
    }
