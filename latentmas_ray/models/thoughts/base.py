"""The interface of thought rules: from an agent's last hidden state to its next input embedding.

Dimensions: … any leading dimensions, N thoughts, E hidden size.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

_MIN_NORM = 1e-6


class ThoughtKey(NamedTuple):
    """What names a thought, whatever the batch, the rank and the machine: nothing else may decide about chance."""

    question_id: str
    agent: str
    step: int  # from 0


class ThoughtRule(ABC):
    """Makes latent thoughts. A thought depends on its own hidden state and key only, not on the rows next to it.

    On tensor-parallel ranks every call is a step of all ranks, which get the same thoughts. Raises ShardError there.
    """

    target_norm: float  # mean_v ‖E_in[v]‖
    rescales: bool  # whether every thought gets this norm

    @abstractmethod
    def map(self, hidden_NE: Tensor, keys_N: Sequence[ThoughtKey] = ()) -> Tensor:
        """The thoughts of last hidden states [..., E] before rescaling, in fp32 and of the same shape. Only a rule that
        draws random numbers needs `keys_N`, one for each hidden state."""

    def __call__(self, hidden_NE: Tensor, keys_N: Sequence[ThoughtKey] = ()) -> Tensor:
        """The thoughts of last hidden states [..., E] as they are fed, in fp32: e · target_norm / ‖e‖ with e of `map`,
        or e if the rule does not rescale."""
        return self.rescaled(self.map(hidden_NE, keys_N))

    def rescaled(self, mapped_NE: Tensor) -> Tensor:
        """What is fed of thoughts that `map` has returned."""
        return to_norm(mapped_NE, self.target_norm) if self.rescales else mapped_NE


def to_norm(vectors_NE: Tensor, norm: float) -> Tensor:
    """Vectors [..., E] with this norm each; a vector of zeros stays one."""
    norm_N1: Tensor = vectors_NE.norm(dim=-1, keepdim=True).clamp_min(_MIN_NORM)
    return vectors_NE * (norm / norm_N1)


def thought_keys(question_ids: Sequence[str], agent: str, num_steps: int) -> list[ThoughtKey]:
    """The keys of the first `num_steps` thoughts of each question: all of one question, then those of the next."""
    return [ThoughtKey(question, agent, step) for question in question_ids for step in range(num_steps)]
