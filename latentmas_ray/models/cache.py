"""The KV cache of one engine: reserved up front, written in place, ragged rows without padding between turns.

Row b holds its question's tokens in slots 0 … lengths[b]−1, whatever their positions. Rows are left-aligned, so a
short row is followed by slots that nobody attends to. Active rows are always the first ones.

Dimensions: L layers, C 2 (key, value), B rows, H KV heads, T slots, D head dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from latentmas_ray.memory import KVCacheSpec, RopeSpec, rotate_keys


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer's slots. Where the next tokens go is decided once per forward by the `BatchCache`."""

    def __init__(self, cache: "BatchCache", kv_CBHTD: Tensor) -> None:
        super().__init__()
        self.cache = cache
        self.kv_CBHTD = kv_CBHTD
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: slots were reserved."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write [b, H, t, D] behind each row's tokens; return views of everything visible, [b, H, S, D]."""
        step = self.cache.step
        keys, values = self.kv_CBHTD[0], self.kv_CBHTD[1]
        num_rows, num_new = key_states.shape[0], key_states.shape[2]
        if len(set(step.starts)) == 1 and set(step.counts) == {num_new}:
            first = step.starts[0]
            keys[:num_rows, :, first : first + num_new] = key_states
            values[:num_rows, :, first : first + num_new] = value_states
        elif num_new == 1:
            rows, slots = step.index(keys.device)
            keys[rows, :, slots] = key_states[:, :, 0]
            values[rows, :, slots] = value_states[:, :, 0]
        else:
            for row, (first, count) in enumerate(zip(step.starts, step.counts, strict=True)):
                keys[row, :, first : first + count] = key_states[row, :, :count]
                values[row, :, first : first + count] = value_states[row, :, :count]
        return keys[:num_rows, :, : step.num_visible], values[:num_rows, :, : step.num_visible]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.step.num_visible, 0

    def get_seq_length(self) -> int:
        return self.cache.step.num_visible

    def get_max_length(self) -> int:
        return self.cache.num_slots


class _Step:
    """Where the tokens of one forward go: row b's `counts[b]` tokens behind its first `starts[b]`."""

    def __init__(self, starts: Sequence[int], counts: Sequence[int], width: int) -> None:
        self.starts, self.counts = list(starts), list(counts)
        self.num_visible = max(start + width for start in self.starts) if self.starts else 0
        self._index: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row numbers and slots as tensors, made once per device and forward."""
        if device not in self._index:
            rows = torch.arange(len(self.starts), device=device)
            self._index[device] = (rows, torch.tensor(self.starts, device=device))
        return self._index[device]


class BatchCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """`past_key_values` of a whole batch. `lengths[b]` tokens of row b are valid; the rest is nobody's."""

    def __init__(self, spec: KVCacheSpec, devices: Sequence[torch.device], num_rows: int, num_slots: int) -> None:
        """Reserve `num_rows` × `num_slots`, layer l on `devices[l]`."""
        self.spec = spec
        self.num_rows, self.num_slots = num_rows, num_slots
        self.lengths: list[int] = []
        self._num_touched = 0  # slots that any row of this batch ever used
        self.step = _Step([], [], 0)
        # Zeros, because a masked slot still takes part with weight 0, and 0 · NaN would be NaN.
        shape = (2, num_rows, spec.num_kv_heads, num_slots, spec.head_dim)
        super().__init__(
            layers=[_Layer(self, torch.zeros(shape, dtype=spec.torch_dtype, device=device)) for device in devices]
        )

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.num_slots * self.spec.bytes_per_token

    def open(self, num_rows: int) -> None:
        """Begin a batch of `num_rows` empty rows. What the batch before left is zeroed (see `__init__`)."""
        for layer in self.layers:
            layer.kv_CBHTD[:, :, :, : self._num_touched].zero_()
        self.lengths, self._num_touched = [0] * num_rows, 0

    def begin_step(self, counts: Sequence[int], width: int) -> None:
        """Announce a forward over [rows, width] inputs of which row b's first `counts[b]` are real."""
        self.step = _Step(self.lengths, counts, width)

    def end_step(self) -> None:
        """The forward is done: its tokens are valid now."""
        self.lengths = [length + count for length, count in zip(self.lengths, self.step.counts, strict=True)]
        self._num_touched = max(self._num_touched, *self.lengths)

    def visibility(self, width: int, device: torch.device) -> Tensor:
        """The true mask of the announced forward, bool [b, 1, width, S]: query i of row b sees its first start+i+1."""
        starts = torch.tensor(self.step.starts, device=device)
        last_seen = starts[:, None] + torch.arange(width, device=device)
        slots = torch.arange(self.step.num_visible, device=device)
        return (slots <= last_seen[..., None])[:, None]

    def write(self, row: int, kv_LCHTD: Tensor, shift: int, rope: RopeSpec) -> None:
        """Append tokens [L, 2, H, t, D] to a row, their keys rotated by `shift` positions."""
        first, count = self.lengths[row], kv_LCHTD.shape[3]
        for layer, kv_CHTD in zip(self.layers, kv_LCHTD, strict=True):
            slots = layer.kv_CBHTD[:, row, :, first : first + count]
            slots[0] = rotate_keys(kv_CHTD[0].to(slots.device), shift, rope)
            slots[1] = kv_CHTD[1]
        self.lengths[row] += count
        self._num_touched = max(self._num_touched, self.lengths[row])

    def read(self, row: int, first: int, stop: int, out_LCHTD: Tensor) -> None:
        """Copy slots [first, stop) of a row into `out_LCHTD` [L, 2, H, stop − first, D]."""
        for layer, out_CHTD in zip(self.layers, out_LCHTD, strict=True):
            out_CHTD.copy_(layer.kv_CBHTD[:, row, :, first:stop])

    def drop_row(self, row: int) -> None:
        """A row leaves the batch: the last active row takes its place (one row is copied, the others stay)."""
        last, length = len(self.lengths) - 1, self.lengths[-1]
        if row != last:
            for layer in self.layers:
                layer.kv_CBHTD[:, row, :, :length] = layer.kv_CBHTD[:, last, :, :length]
                layer.kv_CBHTD[:, row, :, length : self.lengths[row]].zero_()  # see `__init__`
        self.lengths[row] = length
        self.lengths.pop()
