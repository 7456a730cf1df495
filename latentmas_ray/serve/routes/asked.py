"""From the fields of a request to what a team is asked, and from its answers to the usage."""

from collections.abc import Sequence

from latentmas_ray.serve.api.responses import TokenUsage
from latentmas_ray.serve.api.sampling import SamplingRequest
from latentmas_ray.serve.teams.reply import TeamAnswer
from latentmas_ray.serve.teams.settings import TeamRequest
from latentmas_ray.system.serving import CallSettings, TeamVariant
from latentmas_ray.tasks.question import Question

MAX_TRACED = 1_000_000  # of a batch whose questions ask for the lens: all


def team_request(asked: SamplingRequest, question: Question) -> TeamRequest:
    """Return what the team is asked."""
    return TeamRequest(
        model=asked.model,
        question=question,
        settings=CallSettings(
            temperature=asked.temperature,
            top_p=asked.top_p,
            max_new_tokens=asked.max_new_tokens,
            seed=asked.run_seed,
            samples=asked.n,
            latent_steps=asked.latentmas.latent_steps,
            memory=asked.latentmas.memory,
            trace=MAX_TRACED if asked.latentmas.lens else None,
        ),
        stop=asked.stops,
        streams=asked.streams,
        trace=asked.latentmas.trace,
        lens=asked.latentmas.lens,
    )


def num_choices(asked: SamplingRequest, model: TeamVariant) -> int:
    """Return how many texts a question gets: `n`, else the server's own number. Of several answering agents one answer
    is made."""
    if asked.n is not None:
        return asked.n
    return model.config.samples if len(model.topology.answering_agents) == 1 else 1


def usage_of(answers: Sequence[TeamAnswer], answering_agent: str) -> TokenUsage:
    """Return the usage of a request."""
    cached = sum(one.cached_tokens for one in answers)
    return TokenUsage.of_answers([one.answer for one in answers], answering_agent, cached_tokens=cached)
