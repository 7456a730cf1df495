"""Compute the summary of a run from its answers."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from latentmas_ray.config import RunConfig
from latentmas_ray.placement.prediction.run_layout import LayoutSpeed
from latentmas_ray.runs.accounting import agent_stats, convergence_stats, transfer_stats
from latentmas_ray.runs.controls.adoption import Adoption, adoption_figures
from latentmas_ray.runs.decisions.figures import vote_figures
from latentmas_ray.runs.hints.rows import mean_by_question
from latentmas_ray.runs.hints.scores import HintFigures
from latentmas_ray.runs.results import Answer, Failure, Summary, mean_or_zero
from latentmas_ray.stats import accuracy_interval
from latentmas_ray.tasks.question import NumberSource


class WarmUp:
    """Measures the warm-up of one start, which ends when as many batches are finished as the agent with the most
    replicas has replicas: by then, as a rule, every actor has executed its first turn, with its one-time costs."""

    def __init__(self, batches: Sequence[Sequence[str]], num_replicas: int = 1) -> None:
        """`batches` are the ids of the open questions of each batch."""
        self.seconds: float | None = None  # duration of the warm-up; None until it ends
        self.num_answers_after = 0
        self._num_batches_left = num_replicas
        self._batch_of = {question: number for number, batch in enumerate(batches) for question in batch}
        self._num_open = [len(batch) for batch in batches]

    def add(self, result: Answer | Failure, seconds: float) -> None:
        """Add a result that finished `seconds` after the start."""
        if self.seconds is not None:
            self.num_answers_after += isinstance(result, Answer)
            return
        number = self._batch_of[result.id]
        self._num_open[number] -= 1
        self._num_batches_left -= not self._num_open[number]
        if not self._num_batches_left:
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
    layout_speed: LayoutSpeed | None = None,
    hints: HintFigures | None = None,
) -> Summary:
    """Return the summary of a whole run.

    `answers` are those of the whole journal, `num_resumed` of them from before this start. `seconds` is the wall-clock
    time since this start, `warm_up` has received its results, `made_with` is from `describe_environment`,
    `layout_speed` from a run whose layout was searched, `hints` from one with hints. Accuracy is over the graded
    questions, those with hints as the mean over these; failed questions are not graded.
    """
    graded = [*mean_by_question(answers).values()]
    errors = [transfer.relative_error for answer in answers for transfer in answer.transfers]
    return Summary(
        method=config.method,
        topology=config.topology,
        model=config.model,
        models=config.models,
        memory=config.memory,
        num_questions=len(answers) + len(failures),
        num_failed=len(failures),
        accuracy=mean_or_zero(graded) if graded else None,
        accuracy_interval=accuracy_interval(graded) if graded else None,
        numbers_from=count_numbers_from(answers),
        prompt_tokens_per_question=mean_or_zero([answer.prompt_tokens for answer in answers]),
        latent_steps_per_question=mean_or_zero([answer.latent_tokens for answer in answers]),
        output_tokens_per_question=mean_or_zero([answer.output_tokens for answer in answers]),
        memory_bytes_per_question=mean_or_zero([answer.memory_bytes for answer in answers]),
        keep=config.keep,
        keep_by=config.keep_by,
        evicted_bytes_per_question=mean_or_zero([answer.evicted_bytes for answer in answers]),
        moved_bytes=sum(transfer.moved_bytes for answer in answers for transfer in answer.transfers),
        adoption=adoption_figures([adoptions(answers)]),
        hints=hints,
        codec=config.codec,
        relative_error=max(errors, default=0.0),
        exposed_seconds=_exposed_seconds(answers),
        seconds=seconds,
        questions_per_second=(len(answers) - num_resumed) / seconds if seconds > 0 else 0.0,
        num_resumed=num_resumed,
        **_after_warm_up(seconds, warm_up),
        agents=agent_stats(answers),
        hand_overs=transfer_stats(answers),
        num_alarmed=sum(any(use.alarms for use in answer.agents.values()) for answer in answers),
        alarms=dict(Counter(name for answer in answers for name, use in answer.agents.items() if use.alarms)),
        convergence=convergence_stats(answers),
        num_cut_off=count_cut_off(answers),
        cut_off=_cut_off_by_agent(answers),
        made_with=made_with or {},
        votes=vote_figures([(answer.votes, answer.decision) for answer in answers if answer.decision is not None]),
        layout_speed=layout_speed,
    )


def _exposed_seconds(answers: Iterable[Answer]) -> float:
    """Return the mean, over questions and readers, of the exposed seconds of all that a reader reads."""
    return mean_or_zero(
        [
            sum(transfer.exposed_seconds for transfer in answer.transfers if transfer.reader == reader)
            for answer in answers
            for reader in dict.fromkeys(transfer.reader for transfer in answer.transfers)
        ]
    )


def adoptions(answers: Iterable[Answer]) -> dict[str, Adoption]:
    """Return what became of what one agent was told wrongly, by question; empty with other controls."""
    return {answer.id: answer.adoption for answer in answers if answer.adoption is not None}


def count_cut_off(answers: Iterable[Answer]) -> int | None:
    """Return how many questions have a text that ended before the model had ended it; None if no answer says so."""
    known = [answer for answer in answers if any(use.cut_off is not None for use in answer.agents.values())]
    return sum(answer.is_cut_off for answer in known) if known else None


def count_numbers_from(answers: Iterable[Answer]) -> dict[str, int]:
    """Return how many answers have whose numbers; empty if none is known."""
    found = Counter(answer.numbers_from for answer in answers if answer.numbers_from is not None)
    return {source: found[source] for source in get_args(NumberSource)} if found else {}


def _cut_off_by_agent(answers: Sequence[Answer]) -> dict[str, dict[str, int]]:
    reasons: dict[str, Counter[str]] = {}
    for answer in answers:
        for name, use in answer.agents.items():
            if use.cut_off is not None and use.is_cut_off:
                reasons.setdefault(name, Counter())[use.cut_off] += 1
    return {name: dict(counts) for name, counts in reasons.items()}


def _after_warm_up(seconds: float, warm_up: WarmUp | None) -> dict[str, Any]:
    """Return the fields about the warm-up; empty if it did not end, without speeds if no answer followed it."""
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
