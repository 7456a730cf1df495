"""Numbers of a group that shares a scale as small whole numbers, and back.

A group has a scale s, a bfloat16, and each of its numbers x becomes the n nearest to x/s, −127 ≤ n ≤ 127, so that
|x − n·s| ≤ s/2. Where the grid has 16 levels, n − z is kept, with z the group's smallest n: a group that lies far from
zero loses nothing by it. Numbers in the last tenth of the dtype's range may be off by s, so that none becomes infinite.

Dimensions: T tokens of all questions one after another, G groups of tokens, S tokens of the longest of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentmas_ray.errors import SegmentError

_LARGEST = 127
# Scales are made larger by this before they are rounded to bfloat16, so that the rounding never makes one too small.
_UP = 1.004
# The smallest normal number, whose inverse is finite: numbers below half of it become zero.
_TINY = 2.0**-126


@dataclass(frozen=True)
class Grid:
    """How finely numbers are coded."""

    num_levels: int  # that the numbers of one group may take
    group_tokens: int
    group_channels: int

    @property
    def is_packed(self) -> bool:
        """A code fits into four bits, and every group has a z."""
        return self.num_levels == 16

    def num_token_groups(self, length: int) -> int:
        """A question's groups: as many as there can be, none shorter than `group_tokens` unless the question is."""
        return max(1, length // self.group_tokens) if length else 0

    def num_channel_groups(self, head_dim: int) -> int:
        """Equal groups, as small as `group_channels` allows; a head dim without such a divisor is one group."""
        most = max(1, head_dim // self.group_channels)
        return next(number for number in range(most, 0, -1) if head_dim % number == 0)


@dataclass(frozen=True)
class TokenGroups:
    """Which tokens share scales: never those of two questions. A question's groups differ by one token at most."""

    tokens_GS: Tensor  # a shorter group repeats its last token, which changes neither its maximum nor its minimum
    group_T: Tensor
    slot_T: Tensor  # where a token stands in tokens_GS.view(-1)

    @classmethod
    def of(cls, grid: Grid, lengths: Sequence[int], device: torch.device) -> "TokenGroups":
        """The groups of questions of these lengths."""
        stops: list[int] = []
        first = 0
        for length in lengths:
            number = grid.num_token_groups(length)
            stops += [first + (index + 1) * length // number for index in range(number)]
            first += length
        stop_G = torch.tensor(stops, dtype=torch.int64)
        size_G = stop_G.diff(prepend=torch.zeros(1, dtype=torch.int64))
        longest = max(size_G.tolist(), default=0)
        start_G = stop_G - size_G
        tokens_GS = torch.minimum(start_G[:, None] + torch.arange(longest), stop_G[:, None] - 1)
        group_T = torch.repeat_interleave(torch.arange(len(stops)), size_G)
        slot_T = group_T * longest + torch.arange(first) - start_G[group_T]
        return cls(tokens_GS.to(device), group_T.to(device), slot_T.to(device))


def quantise(numbers: Tensor, dim: int, grid: Grid, largest_of_dtype: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scales (bfloat16), z (int8) and codes (int8) of fp32 `numbers`, which are overwritten.

    Numbers along `dim` are one group, and scales and z have it no more. The codes are n − z for 16 levels, else n.
    Raises SegmentError for a number that is not finite.
    """
    high, low = numbers.amax(dim, keepdim=True), numbers.amin(dim, keepdim=True)
    largest = torch.maximum(high, -low)
    peak = float(largest.max())
    if not math.isfinite(peak):
        raise SegmentError("KV that is not finite cannot be coded as whole numbers")
    # The span of a group is at most num_levels − 1 steps, so its numbers round to at most num_levels values. The two
    # are divided one by one because the difference of two finite numbers may be infinite.
    span = high / (grid.num_levels - 1) - low / (grid.num_levels - 1)
    scales = torch.maximum(largest / _LARGEST, span).clamp_min_(_TINY).mul_(_UP).bfloat16()
    inverse = scales.float().reciprocal_()
    # Rarely needed: the last step that is inside the dtype's range.
    last = (largest_of_dtype / scales.double()).floor_().float() if peak > 0.9 * largest_of_dtype else None
    codes = _round(numbers, inverse, last)
    zeros = _round(low, inverse, last)
    if grid.is_packed:
        codes.sub_(zeros)
    return scales.squeeze(dim), zeros.squeeze(dim), codes


def _round(numbers: Tensor, inverse: Tensor, last: Tensor | None) -> Tensor:
    """n of numbers, which are overwritten. The same arithmetic for a group and its minimum: none comes out below z."""
    rounded = numbers.mul_(inverse).round_()
    return (rounded if last is None else rounded.clamp_(-last, last)).to(torch.int8)


def multiply(steps: Tensor, scales: Tensor, out: Tensor) -> None:
    """`out` = n · s, rounded once. n and s are exact in bfloat16 and fp32, so the product can be made in place there;
    float16 has not the range of a scale."""
    if out.dtype == torch.float16:
        out.copy_(steps.float().mul_(scales))
    else:
        out.copy_(steps).mul_(scales)
