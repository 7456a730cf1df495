"""How much working memory a request will hold, before a token of it is counted."""

from collections.abc import Mapping
from math import ceil
from typing import Final

from latentmas_ray.config import StepsSetting, most_steps
from latentmas_ray.placement.memory_estimate import Workload, memory_estimates
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology import Topology

# Of English text a token has four bytes; of most other scripts, and of the embedded models, two to three.
_BYTES_PER_TOKEN: Final = 3


def estimate_bytes(
    question: Question,
    topology: Topology,
    bytes_per_token: Mapping[str, int],
    *,
    latent_steps: StepsSetting,
    max_new_tokens: int,
    samples: int = 1,
) -> int:
    """Return an estimate of the KV bytes that the agents hand over for a question, together with the answering agents'
    own: what the actors hold for it at its end.

    `bytes_per_token` is by agent. Lengths of prompts are estimated from their bytes in UTF-8; texts count as long as
    they may become, which an answer seldom is.
    """
    texts = (question.question, question.system, *(message.content for message in question.earlier))
    asked = sum(len(text.encode("utf-8", "replace")) for text in texts)
    total = 0
    for agent in topology.agents:
        around = len(f"{agent.system or ''}{agent.prompt}{agent.suffix}".encode())
        workload = Workload(
            batch_size=1,
            prompt_tokens=max(1, ceil((asked + around) / _BYTES_PER_TOKEN)),
            latent_steps=most_steps(latent_steps),
            max_new_tokens=max_new_tokens,
            samples=samples,
        )
        estimates = {one.agent: one for one in memory_estimates(topology, workload, {})}
        one = estimates[agent.name]
        tokens = one.own_tokens * one.samples if topology.answers(agent.name) else one.handed_over_tokens
        total += tokens * bytes_per_token[agent.name]
    return total
