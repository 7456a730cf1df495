"""The initial weights: the first two layers are initialised as induction heads, which look back for a word.

Copying needs two matching layers: one that tells each token which tokens are before it, and one that looks for a token
with the right ones before it. From random weights, most of the training would pass before both emerge. Here the heads
of the first layer read the tokens 1, 2, 3 and 4 positions before, and those of the second compare a token with what
others have before them and output what they find: the output matrix is initialised from the input matrix. So the model
starts by repeating what followed an earlier occurrence of the same token. All weights are trained; none is frozen.
"""

from typing import Any

import torch
from torch import Tensor

_NUM_CONSTANT = 8  # dims in which all embeddings are equal at first: the input of heads that attend by position only
_CONSTANT = 2.0
_SHARPNESS = 1.6
_HEAD_SCALE = 0.05
_COPY_SCALE = 6.0


def set_first_weights(model: Any) -> None:
    """Set the weights in place, using the global random state.

    The model has two layers or more, four heads, two KV heads, and a hidden size of three heads' dims and 8 at least.
    """
    config = model.config
    size, dim = config.hidden_size, config.head_dim
    # Embeddings are large compared with what the layers add, and most layers add nothing at first.
    input_VE, output_VE = draw_tokens(config.vocab_size, size)
    model.model.embed_tokens.weight.data.copy_(input_VE)
    model.lm_head.weight.data.copy_(output_VE)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    # Three subspaces: the token itself, the token before it, and the four tokens before it.
    own_DE, before_DE, around_DE = _subspaces(3, dim, size)
    by_place, by_content = (layer.self_attn for layer in model.model.layers[:2])
    _attend_by_position(by_place, config.num_attention_heads, own_DE, before_DE, around_DE)
    _attend_by_content(by_content, own_DE, before_DE, around_DE)
    for attention in (by_place, by_content):
        attention.q_norm.weight.data.fill_(_SHARPNESS)
        attention.k_norm.weight.data.fill_(_SHARPNESS)


def draw_tokens(num: int, size: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Return initial rows of `num` tokens for the input and the output matrix: equal except for scale and constant."""
    input_VE = torch.randn(num, size, generator=generator)
    input_VE[:, :_NUM_CONSTANT] = 0.0
    output_VE = _HEAD_SCALE * input_VE
    input_VE[:, :_NUM_CONSTANT] = _CONSTANT
    return input_VE, output_VE


def _subspaces(num: int, dim: int, size: int) -> list[Tensor]:
    """Return `num` matrices of `dim` rows; all rows are orthonormal, and zero in the constant dims."""
    rows = torch.linalg.qr(torch.randn(size - _NUM_CONSTANT, num * dim)).Q.T
    whole = torch.cat([torch.zeros(num * dim, _NUM_CONSTANT), rows], dim=1)
    return list(whole.split(dim))


def _attend_by_position(attention: Any, num_heads: int, own: Tensor, before: Tensor, around: Tensor) -> None:
    """Make head h read the token h + 1 positions before and write it to subspace `around`; head 0 also to `before`."""
    dim, size = own.shape
    half = dim // 2
    near = max(3, 5 * half // 32)  # the fastest rotations, which distinguish neighbouring positions
    angles = 10_000.0 ** -(torch.arange(near) / half)
    query, key = torch.zeros(num_heads, dim, size), torch.zeros(dim, size)
    key[:near, :_NUM_CONSTANT] = 1.0
    for head in range(num_heads):
        query[head, :near, :_NUM_CONSTANT] = torch.cos((head + 1) * angles)[:, None]
        query[head, half : half + near, :_NUM_CONSTANT] = -torch.sin((head + 1) * angles)[:, None]
    num_kv = attention.k_proj.weight.shape[0] // dim
    attention.q_proj.weight.data.copy_(query.flatten(0, 1))
    attention.k_proj.weight.data.copy_(key.repeat(num_kv, 1))
    attention.v_proj.weight.data.copy_(own.repeat(num_kv, 1))
    written = [(before + around).T if head == 0 else around.T for head in range(num_heads)]
    attention.o_proj.weight.data.copy_(torch.cat(written, dim=1))


def _attend_by_content(attention: Any, own: Tensor, before: Tensor, around: Tensor) -> None:
    """Make heads that look for a token after one like this, or with the token before this among its last four."""
    dim, size = own.shape
    half = dim // 2
    # The slower half, which hardly rotates within a few hundred tokens: for comparing contents.
    slow = [*range(half // 2, half), *range(half + half // 2, dim)]

    def placed(read: Tensor) -> Tensor:
        rows = torch.zeros(dim, size)
        rows[slow] = read[: len(slow)]
        return rows

    attention.q_proj.weight.data.copy_(torch.cat([placed(own), placed(own), placed(before), placed(own)]))
    attention.k_proj.weight.data.copy_(torch.cat([placed(before), placed(around)]))
    copied = _subspaces(1, 2 * dim, size)[0]  # the token that is found is copied unchanged
    attention.v_proj.weight.data.copy_(copied)
    attention.o_proj.weight.data[:, :dim] = _COPY_SCALE * copied[:dim].T
