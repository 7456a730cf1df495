"""Where a turn's own memory goes, as its runner sees it."""

from typing import Protocol

import torch
from torch import Tensor

from latentmas_ray.memory import SegmentChunk


class Outgoing(Protocol):
    """Takes a turn's segment, in one piece or in two."""

    @property
    def leaves_early(self) -> bool:
        """Whether what is final before the thoughts is wanted as a piece of its own."""

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        """A flat uint8 tensor to write a piece's KV into: where it can travel from without another copy."""

    def publish(self, final_at: float, piece: SegmentChunk) -> None:
        """A piece leaves; `final_at` is when it became final, in seconds of the wall clock."""
