"""Thoughts of packed agents: computed step by step without gradients, then again in a few passes with gradients.

The rule is the runtime's `realign`: the last hidden state times W_a, at the mean norm of the input embeddings.

Dimensions: B rows, T tokens per row, S agents of a row that think at the same time, N thoughts of all rows,
H KV heads, D head dim, E hidden size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from examples.training.protocol.rows import ThoughtRows
from latentmas_ray.models.thoughts.realign import mean_norm, solve


@dataclass(frozen=True)
class Realigning:
    """The rule `realign` of a model: W_a [E, E] and the norm of what is fed, both without gradients."""

    matrix_EE: Tensor
    norm: float

    @classmethod
    def of(cls, model: Any) -> "Realigning":
        """The rule of a model's embeddings as they are now."""
        inputs_VE = model.get_input_embeddings().weight.detach()
        outputs_VE = model.get_output_embeddings().weight.detach()
        return cls(solve(outputs_VE, inputs_VE), mean_norm(inputs_VE))

    def __call__(self, hidden_NE: Tensor) -> Tensor:
        """Return what is fed after these last hidden states, in float32; gradients pass."""
        mapped_NE = hidden_NE.float() @ self.matrix_EE
        fed_NE: Tensor = mapped_NE * (self.norm / mapped_NE.norm(dim=-1, keepdim=True).clamp_min(1e-6))
        return fed_NE


class _RowCache:
    """Keys and values [B, H, T + 1, D] of every layer. The first forward writes all columns; each later one writes
    `columns_BS`, where column T takes what no agent is at. Stands in for transformers' cache."""

    def __init__(self) -> None:
        self.columns_BS: Tensor | None = None
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Called by each attention layer; returns what its queries may look at."""
        if self.columns_BS is None:
            spare = torch.zeros_like(keys[:, :, :1])
            self._keys.append(torch.cat([keys, spare], dim=2))
            self._values.append(torch.cat([values, spare], dim=2))
            return keys, values
        places = self.columns_BS[:, None, :, None].expand_as(keys)
        self._keys[layer].scatter_(2, places, keys)
        self._values[layer].scatter_(2, places, values)
        return self._keys[layer], self._values[layer]


def forward(model: Any, embedded_BTE: Tensor, positions_BT: Tensor, visible: Tensor, cache: Any = None) -> Tensor:
    """Return the last hidden states [B, T, E]; `visible` [B, T, keys] is True where a token sees a key."""
    found: Tensor = model.model(
        inputs_embeds=embedded_BTE,
        position_ids=positions_BT,
        attention_mask={"full_attention": visible[:, None]},
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    return found


def embed(model: Any, rows: ThoughtRows) -> Tensor:
    """Return input embeddings [B, T, E] without gradients; those of thoughts are to be filled in."""
    embedded_BTE: Tensor = model.get_input_embeddings().weight.detach()[rows.rows.ids_BT]
    return embedded_BTE


NextInput = Callable[[Tensor, int], Tensor]


@torch.no_grad()
def extend(
    model: Any,
    rows: ThoughtRows,
    visible: Tensor,
    embedded_BTE: Tensor,
    start_BS: Tensor,
    num: int,
    next_input: NextInput,
) -> None:
    """Fill in `num` columns from `start_BS` on (-1: none), one after another, in `embedded_BTE`.

    `next_input` makes the inputs [B, S, E] of last hidden states [B, S, E] and the number of the step. All columns
    before `start_BS` that can be seen must be filled in.
    """
    if not num or not start_BS.numel():
        return
    is_real, cache = start_BS >= 0, _RowCache()
    row_BS = torch.arange(len(start_BS))[:, None].expand_as(start_BS)
    hidden_BTE = forward(model, embedded_BTE, rows.rows.positions_BT, visible, cache)
    hidden_BSE = hidden_BTE[row_BS, (start_BS - 1).clamp_min(0)]
    spare = visible.shape[2]
    for step in range(num):
        fed_BSE = next_input(hidden_BSE, step).to(embedded_BTE.dtype)
        column_BS = (start_BS + step).clamp_min(0)
        embedded_BTE[row_BS[is_real], column_BS[is_real]] = fed_BSE[is_real]
        if step == num - 1:
            return  # what follows from the last one is computed with all others
        cache.columns_BS = column_BS.where(is_real, spare)
        seen = torch.cat([visible[row_BS, column_BS], ~is_real[..., None]], dim=-1)
        hidden_BSE = forward(model, fed_BSE, rows.rows.positions_BT[row_BS, column_BS], seen, cache)


def think(
    model: Any, rule: Realigning, rows: ThoughtRows, visible: Tensor, noise: "ThoughtNoise | None" = None
) -> Tensor:
    """Return input embeddings [B, T, E] with the agents' thoughts, without gradients."""
    embedded_BTE = embed(model, rows)

    def next_input(hidden_BSE: Tensor, step: int) -> Tensor:
        thought_BSE = rule(hidden_BSE)
        return thought_BSE if noise is None else noise(thought_BSE)

    for start_BS in rows.starts:
        extend(model, rows, visible, embedded_BTE, start_BS, rows.num_thoughts, next_input)
    return embedded_BTE


@dataclass(frozen=True)
class ThoughtNoise:
    """Adds independent normal numbers to thoughts, of `size` times their norm in expectation, and restores the norm."""

    size: float
    norm: float
    generator: torch.Generator

    def __call__(self, thought_NE: Tensor) -> Tensor:
        drawn = torch.randn(thought_NE.shape, generator=self.generator) / thought_NE.shape[-1] ** 0.5
        moved_NE = thought_NE + self.size * self.norm * drawn
        noisy_NE: Tensor = moved_NE * (self.norm / moved_NE.norm(dim=-1, keepdim=True))
        return noisy_NE


def hidden_states(
    model: Any, rule: Realigning, rows: ThoughtRows, visible: Tensor, embedded_BTE: Tensor, depth: int
) -> Tensor:
    """Return the last hidden states [B, T, E] of rows with computed thoughts, with gradients through `depth` steps.

    Thoughts are a fixed point: what the rule makes of the hidden states is what was fed. So a forward whose thoughts
    are constants, followed by one that is fed what the rule makes of its hidden states, computes the same numbers, but
    through which gradients pass one step back; each further forward adds a step. `depth` 0 trains what agents write to
    their memory while they think, and nothing of what they think.
    """
    is_thought_BT = rows.is_thought
    fed_BTE = embedded_BTE
    for _ in range(depth if rows.num_thoughts else 0):
        hidden_BTE = forward(model, fed_BTE, rows.rows.positions_BT, visible)
        before_NE = hidden_BTE[:, :-1][is_thought_BT[:, 1:]]  # a row never begins with a thought
        fed_BTE = embedded_BTE.masked_scatter(is_thought_BT[..., None], rule(before_NE).to(embedded_BTE.dtype))
    return forward(model, fed_BTE, rows.rows.positions_BT, visible)
