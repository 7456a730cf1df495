"""The KV cache of one engine: reserved up front, written in place, ragged rows without padding between turns.

Row b holds its question's tokens in slots 0 … lengths[b]−1, independent of their positions. Rows are left-aligned; no
token attends to the slots after a short row. Active rows are always the first ones.

Dimensions: L layers, C 2 (key, value), B rows, H KV heads, T slots, D head dim.
"""

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol
from weakref import ref

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from latentmas_ray.errors import CacheError
from latentmas_ray.memory import KVCacheSpec, rotate_keys
from latentmas_ray.memory.buffers import copy_into, empty_bytes
from latentmas_ray.models.attention import AttentionMass, Packing, SlotPositions
from latentmas_ray.units import format_bytes

# On a CPU attention is as fast as it reads keys and values: a call for each row costs less than so many bytes in vain.
_MAX_PADDING_BYTES = 2**19


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer's slots. `BatchCache` sets `packing` before each forward.

    It has no reference to its cache: a cycle would keep a dropped cache's memory until the garbage collector runs.
    """

    def __init__(self, kv_CBHTD: Tensor) -> None:
        super().__init__()
        self.kv_CBHTD = kv_CBHTD
        self.packing = Packing([], [])
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: slots were reserved."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append packed tokens [1, H, N, D] to their rows; return views of all slots [b, H, T, D]."""
        num_rows = len(self.packing.starts)
        for call in self.packing.calls:
            parts = key_states[0, :, call.tokens], value_states[0, :, call.tokens]
            if call.num_rows > 1:  # one indexed write of a flat list: an index between slices takes twice as long
                slots = call.slots(self.kv_CBHTD)
                self.kv_CBHTD.view(-1, self.kv_CBHTD.shape[4])[slots] = torch.cat(parts).flatten(0, 1)
                continue
            first, stop = call.starts[0], call.starts[0] + call.count
            for slots_BHTD, part_HND in zip(self.kv_CBHTD, parts, strict=True):
                slots_BHTD[call.first_row, :, first:stop] = part_HND
        return self.kv_CBHTD[0, :num_rows], self.kv_CBHTD[1, :num_rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.packing.num_visible, 0

    def get_seq_length(self) -> int | Tensor:
        return self.packing.num_visible if self.packing.seen is None else self.packing.seen

    def get_max_length(self) -> int:
        return int(self.kv_CBHTD.shape[3])


Reserve = Callable[[int, torch.device], Tensor]


class CacheView(Protocol):
    """KV that refers to a cache's slots and can copy itself out."""

    def detach(self) -> None:
        """Copy the KV out of the cache, which is about to change."""

    def invalidate(self) -> None:
        """Drop the reference to the cache, which is about to change, without a copy."""


class BatchCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """`past_key_values` of a whole batch. The first `lengths[b]` slots of row b are valid."""

    def __init__(self, spec: KVCacheSpec, devices: Sequence[torch.device], num_rows: int, num_slots: int) -> None:
        """Reserve `num_rows` × `num_slots`, layer l on `devices[l]`."""
        self.spec = spec
        self.num_rows, self.num_slots = num_rows, num_slots
        self.lengths: list[int] = []
        self._num_touched = [0] * num_rows  # per row: slots that were written since they were last zeroed
        self.packing = Packing([], [])
        self._mass: AttentionMass | None = None
        on_cpu = all(device.type == "cpu" for device in devices)  # a GPU waits for launches, not for bytes
        self._max_padding = _MAX_PADDING_BYTES * spec.num_layers // spec.bytes_per_token if on_cpu else None
        self._views: list[ref[CacheView]] = []  # weak: a segment without references need not be copied
        self._positions = SlotPositions(num_rows, num_slots) if spec.has_windows else None
        # Zeros, because a masked slot is still multiplied with weight 0, and 0 · NaN would be NaN.
        shape = (2, num_rows, spec.num_kv_heads, num_slots, spec.head_dim)
        super().__init__(layers=[_Layer(_zeros(shape, spec.torch_dtype, device)) for device in devices])

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.num_slots * self.spec.bytes_per_token

    @property
    def num_touched_bytes(self) -> int:
        """Bytes that were written since the cache was zeroed: on a CPU the memory that it uses."""
        return sum(self._num_touched) * self.spec.bytes_per_token

    @property
    def has_views(self) -> bool:
        """Whether a segment still refers to this cache."""
        return any(view() is not None for view in self._views)

    def open(self, num_rows: int) -> None:
        """Start a batch of `num_rows` empty rows. Slots of the previous batch are zeroed (see `__init__`)."""
        self.detach_all()
        # Row by row: zeroing a slot that was never written would allocate memory for it.
        for row in range(self.num_rows):
            self._zero_row(row)
        self.lengths = [0] * num_rows

    def reserve(self, num_slots: int) -> None:
        """Make rows at least `num_slots` long and keep their tokens."""
        if num_slots > self.num_slots:
            self.resize(self.num_rows, num_slots)

    def resize(self, num_rows: int, num_slots: int) -> None:
        """Change the number of rows and of their slots, which suffice for the tokens in them, and keep those.

        Layer by layer, so that only one is held twice. An error, of which CacheError is the one for CPUs, loses no
        token; `num_rows` and `num_slots` are then those of the smallest layer.
        """
        shape = (2, num_rows, self.spec.num_kv_heads, num_slots, self.spec.head_dim)
        try:
            for layer in self.layers:
                old_CBHTD = layer.kv_CBHTD
                new_CBHTD = _zeros(shape, old_CBHTD.dtype, old_CBHTD.device)
                for row, length in enumerate(self.lengths):
                    new_CBHTD[:, row, :, :length] = old_CBHTD[:, row, :, :length]
                layer.kv_CBHTD = new_CBHTD
            if self._positions is not None:
                self._positions.resize(num_rows, num_slots, len(self.lengths))
            self._num_touched = [*self.lengths, *[0] * (num_rows - len(self.lengths))]
        finally:
            self.num_rows = min(layer.kv_CBHTD.shape[1] for layer in self.layers)
            self.num_slots = min(layer.kv_CBHTD.shape[3] for layer in self.layers)

    def add_row(self) -> int:
        """Add an empty row to the batch, after the others, and return its number. Its slots are zeroed (see
        `__init__`)."""
        row = len(self.lengths)
        self._zero_row(row)
        self.lengths.append(0)
        return row

    def attach(self, view: CacheView) -> None:
        """Register a view of slots; it is detached before they change."""
        self._views.append(ref(view))

    def detach_all(self) -> None:
        """Make all views copy themselves."""
        for view in self._views:
            if (alive := view()) is not None:
                alive.detach()
        self._views.clear()

    def drop_views(self) -> None:
        """Invalidate all views without a copy: they will not be read any more."""
        for view in self._views:
            if (alive := view()) is not None:
                alive.invalidate()
        self._views.clear()

    def begin_step(self, counts: Sequence[int], positions: Sequence[int]) -> None:
        """Prepare a forward over `counts[b]` new tokens of each row, one row after another, of which the first of a row
        has position `positions[b]`."""
        if self._positions is not None:
            for row, (first, count, position) in enumerate(zip(self.lengths, counts, positions, strict=True)):
                if count:
                    self._positions.put(row, first, [torch.arange(position, position + count)])
        self.packing = Packing(
            self.lengths, counts, self._max_padding, windows=self.spec.windows, positions=self._positions
        )
        self.packing.mass = self._mass
        for layer in self.layers:
            layer.packing = self.packing
        for row, (length, count) in enumerate(zip(self.lengths, counts, strict=True)):
            self._touch(row, length + count)

    def end_step(self) -> None:
        """Make the tokens of the finished forward valid."""
        self.lengths = [length + count for length, count in zip(self.lengths, self.packing.counts, strict=True)]

    @contextmanager
    def watched(self, mass: AttentionMass | None) -> Iterator[None]:
        """Context whose forwards add their attention to `mass`; None: nothing is added up."""
        self._mass = mass
        try:
            yield
        finally:
            self._mass = None

    def write(
        self,
        row: int,
        first: int,
        kv_LCHTD: Tensor,
        shift: int,
        *,
        first_head: int = 0,
        positions: Sequence[Tensor] | None = None,
    ) -> None:
        """Write tokens [L, 2, H, t, D] into a row's slots from `first` on, their keys rotated by `shift` positions.

        The heads may be some of the cache's, from `first_head` on. `positions` [t] are those where the tokens are then,
        once for all layers or once for each; they are needed if a layer has a window. `extend` makes the tokens valid
        once all heads are written.
        """
        stop, stop_head = first + kv_LCHTD.shape[3], first_head + kv_LCHTD.shape[2]
        self._touch(row, stop)
        if self._positions is not None:
            assert positions is not None, "a window needs the positions of what is written"
            self._positions.put(row, first, positions)
        for layer, kv_CHTD, rope in zip(self.layers, kv_LCHTD, self.spec.ropes, strict=True):
            slots = layer.kv_CBHTD[:, row, first_head:stop_head, first:stop]
            copy_into(slots[0], rotate_keys(kv_CHTD[0].to(slots.device), shift, rope))
            copy_into(slots[1], kv_CHTD[1])

    def positions_of(self, row: int, first: int, count: int) -> list[Tensor] | None:
        """The positions of a row's slots [first, first + count), as `write` takes them; None if nothing needs them."""
        if self._positions is None:
            return None
        slots = slice(first, first + count)
        return [self._positions.of(layer)[row, slots].clone() for layer in range(self.spec.num_layers)]

    def extend(self, lengths: Sequence[int]) -> None:
        """Make the first `lengths[b]` slots of each row valid."""
        self.lengths = list(lengths)

    def copy_out(
        self,
        begins: Sequence[int],
        lengths: Sequence[int],
        reserve: Reserve = empty_bytes,
        *,
        kept: Sequence[Sequence[Tensor]] | None = None,
    ) -> Tensor:
        """Copy `lengths[b]` slots of each row from `begins[b]` on, one row after another: [L, 2, H, ΣT, D].

        With `kept` only some: in layer l and row b the `lengths[b]` slots `kept[l][b]`, counted from `begins[b]` on.
        `reserve` returns the flat uint8 tensor to write to, for a number of bytes and the cache's device.
        """
        spec = self.spec
        shape = (spec.num_layers, 2, spec.num_kv_heads, sum(lengths), spec.head_dim)
        num_bytes = sum(lengths) * spec.bytes_per_token
        kv_LCHTD = reserve(num_bytes, self.layers[0].kv_CBHTD.device).view(spec.torch_dtype).view(shape)
        for row, (first, part_LCHTD) in enumerate(zip(begins, kv_LCHTD.split(list(lengths), dim=3), strict=True)):
            for index, (layer, part_CHTD) in enumerate(zip(self.layers, part_LCHTD, strict=True)):
                if kept is None:
                    copy_into(part_CHTD, layer.kv_CBHTD[:, row, :, first : first + part_CHTD.shape[2]])
                else:
                    slots_T = (kept[index][row] + first).to(layer.kv_CBHTD.device)
                    copy_into(part_CHTD, layer.kv_CBHTD[:, row].index_select(2, slots_T))
        return kv_LCHTD

    def drop_row(self, row: int) -> None:
        """Remove a row from the batch: the last active row is copied to its place, the others do not move."""
        last, length = len(self.lengths) - 1, self.lengths[-1]
        if row != last:
            self.detach_all()
            for layer in self.layers:
                layer.kv_CBHTD[:, row, :, :length] = layer.kv_CBHTD[:, last, :, :length]
                layer.kv_CBHTD[:, row, :, length : self.lengths[row]].zero_()  # see `__init__`
            if self._positions is not None:
                self._positions.copy_row(last, row, length)
            self._touch(row, length)
        self.lengths[row] = length
        self.lengths.pop()

    def _zero_row(self, row: int) -> None:
        for layer in self.layers if self._num_touched[row] else ():
            layer.kv_CBHTD[:, row, :, : self._num_touched[row]].zero_()
        self._num_touched[row] = 0

    def _touch(self, row: int, num_slots: int) -> None:
        self._num_touched[row] = max(self._num_touched[row], num_slots)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that use no CPU memory until they are written; `torch.zeros` would touch every page.

    Raises CacheError if the machine cannot reserve that much.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes == 0:
        return torch.zeros(shape, dtype=dtype, device=device)
    try:
        # Private: pages of a shared mapping are allocated even when they are only read.
        pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        _, num_rows, _, num_slots, _ = shape
        raise CacheError(
            f"a KV cache of {num_rows} questions × {num_slots} tokens takes {format_bytes(num_bytes)} in every layer, "
            "more than this machine has: use a smaller batch_size, max_new_tokens or latent_steps"
        ) from error
    return torch.frombuffer(pages, dtype=dtype).view(shape)
