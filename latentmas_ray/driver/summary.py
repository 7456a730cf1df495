"""From the answers of a run to its figures."""

from collections.abc import Sequence

from latentmas_ray.config import RunConfig
from latentmas_ray.driver.results import AgentUse, Answer, Failure, Summary, mean_or_zero
from latentmas_ray.statistics import bootstrap_interval


def summarise(
    answers: Sequence[Answer],
    failures: Sequence[Failure],
    *,
    config: RunConfig,
    seconds: float,
    num_resumed: int = 0,
) -> Summary:
    """The figures of a whole run.

    `answers` are those of the whole journal, of which `num_resumed` were there before this start; `seconds` is the
    wall clock since. Accuracy is over the questions that could be graded; a failed question is not among them.
    Seconds of agents are means over questions of the time that their whole batch took.
    """
    graded = [answer.correct for answer in answers if answer.correct is not None]
    names = dict.fromkeys(name for answer in answers for name in answer.agents)
    return Summary(
        method=config.method,
        topology=config.topology,
        model=config.model,
        memory=config.memory,
        num_questions=len(answers) + len(failures),
        num_failed=len(failures),
        accuracy=mean_or_zero(graded) if graded else None,
        accuracy_interval=bootstrap_interval(graded) if graded else None,
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
        agents={
            name: _mean_use([answer.agents[name] for answer in answers if name in answer.agents]) for name in names
        },
    )


def _mean_use(uses: Sequence[AgentUse]) -> dict[str, float]:
    phases = dict.fromkeys(phase for use in uses for phase in use.seconds)
    return {
        "prompt_tokens": mean_or_zero([use.prompt_tokens for use in uses]),
        "latent_steps": mean_or_zero([use.latent_steps for use in uses]),
        "output_tokens": mean_or_zero([use.output_tokens for use in uses]),
        "memory_bytes": mean_or_zero([use.memory_bytes for use in uses]),
        **{f"{phase}_seconds": mean_or_zero([use.seconds.get(phase, 0.0) for use in uses]) for phase in phases},
    }
