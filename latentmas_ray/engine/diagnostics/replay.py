"""Feeds the inputs of a memory again, for the hidden states of which its thoughts were made.

Dimensions: T inputs of a turn, N thoughts, E hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import LATENT, Memory, join, merge_layout
from latentmas_ray.memory.segment import RecomputeInputs
from latentmas_ray.models.thoughts import thought_keys


@dataclass(frozen=True)
class ThoughtChain:
    """All thoughts of one agent on one question, in order; on the CPU in fp32."""

    agent: str
    hidden_NE: Tensor  # the last hidden state before each
    mapped_NE: Tensor  # what the engine's rule makes of it, before rescaling
    fed_NE: Tensor  # what was fed


@torch.inference_mode()
def replay_thoughts(engine: Engine, memory: Memory) -> list[ThoughtChain]:
    """Return the thoughts in a memory that has its KV, by agent; agents without thoughts are left out.

    Each agent's turn is fed again in one forward, behind the memory that it read. Raises SegmentError without KV, and
    IncompatibleMemoryError for memory of another model.
    """
    chains = []
    segments = {name: join([segment.to_chunk()]) for name, segment in memory.segments.items() if segment.has_kv}
    for agent, node in memory.tree.items():
        if agent not in segments:
            raise SegmentError(f"the memory of agent {agent!r} has no KV, so its thoughts cannot be fed again")
        inputs = memory.segments[agent].inputs
        merged = merge_layout(node.reads, segments, 1)
        session = engine.open([memory.question], num_slots=max(merged.lengths) + inputs.lengths[0], agent=agent)
        session.absorb(merged)
        is_thought_T = inputs.token_ids_T == LATENT
        if not bool(is_thought_T.any()):
            continue
        (hidden_TE,) = session.follow([_embeds(engine, inputs)])
        (places_N,) = is_thought_T.nonzero(as_tuple=True)
        hidden_NE = hidden_TE[places_N.to(hidden_TE.device) - 1]
        keys = thought_keys([memory.question], agent, len(places_N))
        mapped_NE = engine.rule.map(hidden_NE, keys)
        chains.append(ThoughtChain(agent, hidden_NE.float().cpu(), mapped_NE.cpu(), inputs.latents_NE.float().cpu()))
    return chains


def _embeds(engine: Engine, inputs: RecomputeInputs) -> Tensor:
    """The input embeddings of a turn, [T, E]."""
    is_thought_T = inputs.token_ids_T == LATENT
    embeds_TE = engine.lm.embed(inputs.token_ids_T.masked_fill(is_thought_T, 0)).clone()
    embeds_TE[is_thought_T.to(embeds_TE.device)] = inputs.latents_NE.to(embeds_TE)
    return embeds_TE
