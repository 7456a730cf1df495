"""From the fields of a request to what a team is asked, and from its answers to the usage."""

from collections.abc import Sequence
from math import ceil

from latentmas_ray.serve.api.responses import TokenUsage
from latentmas_ray.serve.api.sampling import SamplingRequest
from latentmas_ray.serve.teams.reply import TeamAnswer
from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.system.serving import CallSettings, TeamVariant
from latentmas_ray.tasks.question import Question

MAX_TRACED = 1_000_000  # of a batch whose questions ask for the lens: all


def num_choices(asked: SamplingRequest, model: TeamVariant) -> int:
    """Return how many texts a question gets: `n`, else as many as the server draws, which are one at temperature 0.
    Where one answer is made of several, by a rule that the server was given or of several agents, it is one."""
    if asked.n is not None:
        return asked.n
    return 1 if _is_greedy(asked, model) or not model.answers_once else model.config.samples


def _is_greedy(asked: SamplingRequest, model: TeamVariant) -> bool:
    return (model.config.temperature if asked.temperature is None else asked.temperature) == 0


def team_request(asked: SamplingRequest, question: Question, model: TeamVariant) -> TeamRequest:
    """Return what `model` is asked."""
    # Greedy answers are all the same, and the server's own number is not the client's mistake.
    is_one = asked.n is None and model.config.samples > 1 and _is_greedy(asked, model)
    return TeamRequest(
        model=asked.model,
        question=question,
        settings=CallSettings(
            temperature=asked.temperature,
            top_p=asked.top_p,
            max_new_tokens=asked.max_new_tokens,
            seed=asked.run_seed,
            samples=1 if is_one else asked.n,
            latent_steps=asked.latentmas.latent_steps,
            memory=asked.latentmas.memory,
            trace=MAX_TRACED if asked.latentmas.lens else None,
        ),
        stop=asked.stops,
        num_choices=num_choices(asked, model),
        weight=ceil((asked.n or 1) / model.config.samples),
        streams=asked.streams,
        trace=asked.latentmas.trace,
        lens=asked.latentmas.lens,
    )


def usage_of(answers: Sequence[TeamAnswer], answering_agent: str) -> TokenUsage:
    """Return the usage of a request."""
    cached = sum(one.cached_tokens for one in answers)
    return TokenUsage.of_answers([one.answer for one in answers], answering_agent, cached_tokens=cached)
