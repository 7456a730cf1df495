"""Turns on an engine, as short as tests want them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.engine.session import Session
from latentmas_ray.memory import MergedLayout, Segment, merge_layout
from latentmas_ray.topology.agent import AgentMemory, HandsOver

Prompts = Sequence[Sequence[int]]
TOLERANCE = 1e-4


def prompts_of(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random token ids, no special ones."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 259, (length,), generator=generator).tolist() for length in lengths]


def begin(engine: Engine, prompts: Prompts, placement: MergedLayout | None = None, *, room: int = 64) -> Session:
    """A session that has absorbed `placement` and read the prompts."""
    memory = max(placement.lengths) if placement else 0
    names = [f"q{index}" for index in range(len(prompts))]
    session = engine.open(names, num_slots=memory + max(map(len, prompts)) + room)
    if placement:
        session.absorb(placement)
    session.prefill(prompts)
    return session


def think(
    engine: Engine,
    prompts: Prompts,
    num_steps: int,
    placement: MergedLayout | None = None,
    *,
    hands_over: HandsOver = "all",
) -> Segment:
    """A latent agent's turn."""
    session = begin(engine, prompts, placement)
    session.think(num_steps)
    return session.emit(hands_over)


def memory(*agents: str) -> AgentMemory:
    """The memory of a chain of agents."""
    tree = AgentMemory(agents[0])
    for agent in agents[1:]:
        tree = AgentMemory(agent, (tree,))
    return tree


def place_chain(segments: Mapping[str, Segment]) -> MergedLayout:
    """Segments of a chain, in the order of the mapping."""
    num_questions = next(iter(segments.values())).num_questions
    return merge_layout([memory(*segments)], segments, num_questions)


@torch.inference_mode()
def logits_of(session: Session) -> Tensor:
    """What a sampled token would be drawn from, [B, V]."""
    return session.lm.logits(session.last_hidden_BE)


def assert_close(got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(got.float(), expected.float(), atol=tolerance, rtol=0)
