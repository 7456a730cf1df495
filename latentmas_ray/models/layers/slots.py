"""One layer's slots in an engine's cache: reserved tensors [B, H, T, D], written in place.

transformers hands each layer two tensors of the new tokens: usually keys and values; with multi-head latent attention
(DeepSeek-V2, arXiv 2405.04434, section 2.1) the compressed latent of both, and the key's rotary part. The attention
expands a latent where it is used, so only what is compressed lies here.

Dimensions: C 2 (key, value), B rows, H heads, T slots, D head dim, N new tokens of all rows.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from latentmas_ray.memory import LayerSpec
from latentmas_ray.models.attention import AttentionCall, Packing

Zeros = Callable[[tuple[int, ...], torch.dtype], Tensor]


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer's slots. `BatchCache` sets `packing` before each forward.

    It has no reference to its cache: a cycle would keep a dropped cache's memory until the garbage collector runs.
    """

    def __init__(self, spec: LayerSpec, num_rows: int, num_slots: int, zeros: Zeros, device: torch.device) -> None:
        """Reserve `num_rows` × `num_slots` with `zeros`."""
        super().__init__()
        self.spec, self.device = spec, device
        self.packing = Packing([], [])
        self.is_initialized = True
        self.blocks: list[Tensor] = []  # [C, B, H, T, D] each
        self.states: list[Tensor] = []
        self.reserve(num_rows, num_slots, zeros)

    def reserve(self, num_rows: int, num_slots: int, zeros: Zeros, lengths: Sequence[int] = ()) -> None:
        """Reserve other slots, and keep the first `lengths[b]` of each row."""
        old = self.blocks if lengths else ()
        # A key and a value of one shape are one block: a copy or an indexed write then serves both.
        new = [
            zeros((count, num_rows, one.num_heads, num_slots, one.head_dim), one.torch_dtype)
            for one, count in self.spec.blocks
            if one.state_dims is None
        ]
        for row, length in enumerate(lengths):
            for new_CBHTD, old_CBHTD in zip(new, old, strict=True):
                new_CBHTD[:, row, :, :length] = old_CBHTD[:, row, :, :length]
        self.blocks = new
        self.tensors = [slots_BHTD for block_CBHTD in new for slots_BHTD in block_CBHTD]  # [B, H, T, D] each
        # Some families ask for the keys' number; a layer that caches nothing, as one that reads images, has none.
        self.keys = self.tensors[0] if self.tensors else torch.empty(0, device=self.device)
        self.num_rows, self.num_slots = num_rows, num_slots

    @property
    def kv_CBHTD(self) -> Tensor:  # noqa: N802  # it carries its dimensions like every tensor
        """The slots of a layer whose key and value have one shape."""
        (block_CBHTD,) = self.blocks
        return block_CBHTD

    def begin_call(self, call: AttentionCall) -> None:
        """Nothing to do: slots are found by the packing."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: slots were reserved."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append packed tokens [1, H, N, D] (or [N, H, 1, D]) to their rows; return views of all slots [b, H, T, D], or
        of the visible ones where the attention computes with all that it is given."""
        new, num_rows = (key_states, value_states), len(self.packing.starts)
        if key_states.shape[0] > 1:  # single tokens of several rows
            new = key_states.transpose(0, 2), value_states.transpose(0, 2)
        if len(self.blocks) == 1:
            self._append(self.blocks[0], new)
            return self.tensors[0][:num_rows], self.tensors[1][:num_rows]
        for block_CBHTD, states in zip(self.blocks, new, strict=True):
            self._append(block_CBHTD, (states,))
        first_BHTD, second_BHTD = (slots_BHTD[:num_rows, :, : self.packing.num_visible] for slots_BHTD in self.tensors)
        return first_BHTD, second_BHTD

    def _append(self, slots_CBHTD: Tensor, new: Sequence[Tensor]) -> None:
        """Write new tokens [1, H, N, D] of each of C tensors to their rows."""
        for call in self.packing.calls:
            parts = [states[0, :, call.tokens] for states in new]
            if call.num_rows > 1:  # one indexed write of a flat list: an index between slices takes twice as long
                slots = call.slots(slots_CBHTD)
                slots_CBHTD.view(-1, slots_CBHTD.shape[4])[slots] = torch.cat(parts).flatten(0, 1)
                continue
            first, stop = call.starts[0], call.starts[0] + call.count
            for slots_BHTD, part_HND in zip(slots_CBHTD, parts, strict=True):
                slots_BHTD[call.first_row, :, first:stop] = part_HND

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.packing.num_visible, 0

    def get_seq_length(self) -> int | Tensor:
        return self.packing.num_visible if self.packing.seen is None else self.packing.seen

    def get_max_length(self) -> int:
        return self.num_slots
