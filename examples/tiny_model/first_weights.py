"""The weights that training begins with: the first two layers begin as heads that look back for a word.

Copying needs two layers that fit each other: one that tells each token which tokens stand before it, and one that looks
for a token with the right ones before it. Left to chance, most of the training would pass before they find each other.
Here the first layer's heads begin by reading the tokens 1, 2, 3 and 4 places before, the second layer's by comparing a
token with what others have before them, and by saying what they find: the output matrix begins as the input matrix. So
the model begins by repeating what once came after the same token. What is done with that, and all else, is learned;
nothing is held fixed.
"""

from typing import Any

import torch
from torch import Tensor

_NUM_CONSTANT = 8  # dims of the embeddings in which all tokens begin alike: what heads that go by place only read
_CONSTANT = 2.0
_NEAR_PAIRS = 5  # the fastest rotations tell neighbouring places apart
_SLOW_FROM = 16  # the slower half hardly turns within a few hundred tokens: for comparing contents
_SHARPNESS = 1.6
_HEAD_SCALE = 0.05
_COPY_SCALE = 6.0


def set_first_weights(model: Any) -> None:
    """Set the weights in place, from the global random state."""
    config = model.config
    size, dim = config.hidden_size, config.head_dim
    # Embeddings are large beside what the layers add, and most layers begin by adding nothing.
    read_VE, said_VE = draw_tokens(config.vocab_size, size)
    model.model.embed_tokens.weight.data.copy_(read_VE)
    model.lm_head.weight.data.copy_(said_VE)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    # Three subspaces: what a token is, what the one before it is, and what the four before it are.
    own_DE, before_DE, around_DE = _subspaces(3, dim, size)
    by_place, by_content = (layer.self_attn for layer in model.model.layers[:2])
    _read_by_place(by_place, config.num_attention_heads, own_DE, before_DE, around_DE)
    _compare(by_content, own_DE, before_DE, around_DE)
    for attention in (by_place, by_content):
        attention.q_norm.weight.data.fill_(_SHARPNESS)
        attention.k_norm.weight.data.fill_(_SHARPNESS)


def draw_tokens(num: int, size: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """First rows of `num` tokens in the input matrix and in the output matrix: the same, but for scale and constant."""
    read_VE = torch.randn(num, size, generator=generator)
    read_VE[:, :_NUM_CONSTANT] = 0.0
    said_VE = _HEAD_SCALE * read_VE
    read_VE[:, :_NUM_CONSTANT] = _CONSTANT
    return read_VE, said_VE


def _subspaces(num: int, dim: int, size: int) -> list[Tensor]:
    """Orthonormal rows, none of which reads the constant dims."""
    rows = torch.linalg.qr(torch.randn(size - _NUM_CONSTANT, num * dim)).Q.T
    whole = torch.cat([torch.zeros(num * dim, _NUM_CONSTANT), rows], dim=1)
    return list(whole.split(dim))


def _read_by_place(attention: Any, num_heads: int, own: Tensor, before: Tensor, around: Tensor) -> None:
    """Head h reads the token h + 1 places before, and writes it where `around` is read; head 0's also `before`."""
    dim, size = own.shape
    half = dim // 2
    angles = 10_000.0 ** -(torch.arange(_NEAR_PAIRS) / half)
    query, key = torch.zeros(num_heads, dim, size), torch.zeros(dim, size)
    key[:_NEAR_PAIRS, :_NUM_CONSTANT] = 1.0
    for head in range(num_heads):
        query[head, :_NEAR_PAIRS, :_NUM_CONSTANT] = torch.cos((head + 1) * angles)[:, None]
        query[head, half : half + _NEAR_PAIRS, :_NUM_CONSTANT] = -torch.sin((head + 1) * angles)[:, None]
    num_kv = attention.k_proj.weight.shape[0] // dim
    attention.q_proj.weight.data.copy_(query.flatten(0, 1))
    attention.k_proj.weight.data.copy_(key.repeat(num_kv, 1))
    attention.v_proj.weight.data.copy_(own.repeat(num_kv, 1))
    written = [(before + around).T if head == 0 else around.T for head in range(num_heads)]
    attention.o_proj.weight.data.copy_(torch.cat(written, dim=1))


def _compare(attention: Any, own: Tensor, before: Tensor, around: Tensor) -> None:
    """Heads that look for a token behind one like this, and among whose last four one is like the one before this."""
    dim, size = own.shape
    half = dim // 2
    slow = [*range(_SLOW_FROM, half), *range(half + _SLOW_FROM, dim)]

    def placed(read: Tensor) -> Tensor:
        rows = torch.zeros(dim, size)
        rows[slow] = read[: len(slow)]
        return rows

    attention.q_proj.weight.data.copy_(torch.cat([placed(own), placed(own), placed(before), placed(own)]))
    attention.k_proj.weight.data.copy_(torch.cat([placed(before), placed(around)]))
    said = _subspaces(1, 2 * dim, size)[0]  # of what is found, told as it is
    attention.v_proj.weight.data.copy_(said)
    attention.o_proj.weight.data[:, :dim] = _COPY_SCALE * said[:dim].T
