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
from transformers.cache_utils import Cache

from latentmas_ray.errors import CacheError
from latentmas_ray.memory import InMemoryKV, KVCacheSpec, KVLayout, QuestionKV, rotate_keys
from latentmas_ray.memory.buffers import copy_into, empty_bytes
from latentmas_ray.models.attention import AttentionCall, AttentionMass, Packing, SlotPositions
from latentmas_ray.models.layers import make_layer
from latentmas_ray.units import format_bytes

# On a CPU attention is as fast as it reads keys and values: a call for each row costs less than so many bytes in vain.
_MAX_PADDING_BYTES = 2**19

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
        # States are computed for all rows of a call at once, so few calls are more.
        limits_padding = on_cpu and not spec.has_states
        self._max_padding = _MAX_PADDING_BYTES * spec.num_layers // spec.bytes_per_token if limits_padding else None
        self._views: list[ref[CacheView]] = []  # weak: a segment without references need not be copied
        self._positions = SlotPositions(num_rows, num_slots) if spec.has_windows else None
        # Zeros, because a masked slot is still multiplied with weight 0, and 0 · NaN would be NaN.
        layers = [
            make_layer(layer, num_rows, num_slots, _zeros_on(device), device)
            for layer, device in zip(spec.layers, devices, strict=True)
        ]
        super().__init__(layers=layers)

    @property
    def num_bytes(self) -> int:
        return self.num_rows * (self.num_slots * self.spec.bytes_per_token + self.spec.state_bytes)

    @property
    def num_touched_bytes(self) -> int:
        """Bytes that were written since the cache was zeroed: on a CPU the memory that it uses."""
        num_rows = sum(map(bool, self._num_touched))
        return sum(self._num_touched) * self.spec.bytes_per_token + num_rows * self.spec.state_bytes

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
        try:
            for layer in self.layers:
                layer.reserve(num_rows, num_slots, _zeros_on(layer.device), self.lengths)
            if self._positions is not None:
                self._positions.resize(num_rows, num_slots, len(self.lengths))
            self._num_touched = [*self.lengths, *[0] * (num_rows - len(self.lengths))]
        finally:
            self.num_rows = min(layer.num_rows for layer in self.layers)
            self.num_slots = min(layer.num_slots for layer in self.layers)

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

    def begin_call(self, call: AttentionCall) -> Packing:
        """Prepare a forward over the tokens of one call alone, of a model whose layers keep states; returns its
        packing."""
        packing = self.packing.of_call(call)
        for layer in self.layers:
            layer.packing = packing
            layer.begin_call(call)
        return packing

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append new tokens to a layer, see `SlotLayer.update`, and note it as the one whose attention follows."""
        self.layers[layer_idx].packing.updated = layer_idx
        updated: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return updated

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
        kv: QuestionKV,
        shift: int,
        *,
        first_head: int = 0,
        has_states: bool = True,
        positions: Sequence[Tensor] | None = None,
    ) -> None:
        """Write a question's tokens into a row's slots from `first` on, their keys rotated by `shift` positions.

        `kv` is [L, 2, H, t, D], and its heads may be some of the cache's, from `first_head` on; or the tensors of all
        layers, where these differ. With `has_states` the states among them become the row's. `positions` [t] are those
        where the tokens are then, once for all layers or once for each; they are needed if a layer has a window.
        `extend` makes the tokens valid once all heads are written.
        """
        if self._positions is not None:
            assert positions is not None, "a window needs the positions of what is written"
            self._positions.put(row, first, positions)
        parts = iter(kv.flatten(0, 1) if isinstance(kv, Tensor) else kv)
        for layer, layer_spec in zip(self.layers, self.spec.layers, strict=True):
            for slots_BHTD, spec in zip(layer.tensors, layer_spec.slot_tensors, strict=True):
                part_HTD = next(parts)
                num_heads, num_tokens, _ = part_HTD.shape
                self._touch(row, first + num_tokens)
                slots_HTD = slots_BHTD[row, first_head : first_head + num_heads, first : first + num_tokens]
                if spec.rope is not None:
                    part_HTD = rotate_keys(part_HTD.to(slots_HTD.device), shift, spec.rope)
                copy_into(slots_HTD, part_HTD)
            for state_BS in layer.states:
                part_11S = next(parts)
                if has_states and part_11S.numel():
                    state_BS[row].copy_(part_11S[0, 0])

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
        first_row: int = 0,
        has_states: bool = False,
        states: Sequence[Tensor] = (),
    ) -> InMemoryKV:
        """Copy `lengths[b]` slots of each row from `begins[b]` on, one row after another, beginning with `first_row`;
        with `has_states` their states too: the present ones, or `states` (see `copy_states`).

        With `kept` only some: in layer l and row b the `lengths[b]` slots `kept[l][b]`, counted from `begins[b]` on.
        `reserve` returns the flat uint8 tensor to write to, for a number of bytes and the cache's device.
        """
        layout = KVLayout(self.spec, tuple(lengths), has_states=has_states and self.spec.has_states)
        buffer = reserve(layout.num_bytes, self.device)
        own = iter(states or self.copy_states(first_row, len(lengths)) if layout.has_states else ())
        blocks = layout.block_views(buffer)
        for index, layer in enumerate(self.layers):
            for slots_CBHTD in layer.blocks:
                for number, part_CHTD in enumerate(next(blocks).split(list(lengths), dim=2)):
                    slots_CHTD, first = slots_CBHTD[:, first_row + number], begins[number]
                    if kept is None:
                        copy_into(part_CHTD, slots_CHTD[:, :, first : first + part_CHTD.shape[2]])
                    else:
                        slots_T = (kept[index][number] + first).to(slots_CHTD.device)
                        copy_into(part_CHTD, slots_CHTD.index_select(2, slots_T))
            for _ in layer.states:
                block_11BS = next(blocks)
                if layout.has_states:
                    block_11BS[0, 0].copy_(next(own))
        return InMemoryKV(layout, buffer)

    def copy_states(self, first_row: int = 0, num_rows: int | None = None) -> list[Tensor]:
        """Copy the states of some rows, by default of all that are active: [B, S] each, in the order of the layers."""
        stop = len(self.lengths) if num_rows is None else first_row + num_rows
        return [state_BS[first_row:stop].clone() for layer in self.layers for state_BS in layer.states]

    @property
    def device(self) -> torch.device:
        """The device of the first layer: memory is copied to it."""
        device: torch.device = self.layers[0].device
        return device

    def fork(self, times: int) -> None:
        """Append `times` − 1 copies of every row to the batch: copy c of row b of B is row c · B + b.

        Reserves rows where there are too few; raises like `resize`.
        """
        num_rows = len(self.lengths)
        if self.num_rows < times * num_rows:
            self.resize(times * num_rows, self.num_slots)
        for row, length in enumerate(self.lengths):
            copies = range(num_rows + row, times * num_rows, num_rows)
            for copy in copies:
                self._zero_row(copy)
            self.repeat_slots(row, copies, 0, length)
        self.lengths = self.lengths * times

    def repeat_slots(self, row: int, rows: Sequence[int], first: int, stop: int) -> None:
        """Copy slots `first` … `stop` − 1 of a row to the same slots of other rows, evenly spaced, and its states.
        `extend` makes the slots valid."""
        if not rows:
            return
        for other in rows:
            self._touch(other, stop)
            if self._positions is not None:
                self._positions.copy_row(row, other, stop)
        step = rows[1] - rows[0] if len(rows) > 1 else 1
        others = slice(rows[0], rows[-1] + 1, step)
        for slots_CBHTD in self._blocks():
            slots_CBHTD[:, others, :, first:stop] = slots_CBHTD[:, row : row + 1, :, first:stop]
        for state_BS in self._states():
            state_BS[others] = state_BS[row]

    def drop_row(self, row: int) -> None:
        """Remove a row from the batch: the last active row is copied to its place, the others do not move."""
        last, length = len(self.lengths) - 1, self.lengths[-1]
        if row != last:
            self.detach_all()
            for slots_CBHTD in self._blocks():
                slots_CBHTD[:, row, :, :length] = slots_CBHTD[:, last, :, :length]
                slots_CBHTD[:, row, :, length : self.lengths[row]].zero_()  # see `__init__`
            for state_BS in self._states():
                state_BS[row] = state_BS[last]
            if self._positions is not None:
                self._positions.copy_row(last, row, length)
            self._touch(row, length)
        self.lengths[row] = length
        self.lengths.pop()

    def _zero_row(self, row: int) -> None:
        for slots_CBHTD in self._blocks() if self._num_touched[row] else ():
            slots_CBHTD[:, row, :, : self._num_touched[row]].zero_()
        for state_BS in self._states():
            state_BS[row].zero_()
        self._num_touched[row] = 0

    def _blocks(self) -> Iterator[Tensor]:
        """The slots [C, B, H, T, D] of all layers, one or several tensors of one shape together."""
        for layer in self.layers:
            yield from layer.blocks

    def _states(self) -> Iterator[Tensor]:
        """The states [B, S] of all layers."""
        for layer in self.layers:
            yield from layer.states

    def _touch(self, row: int, num_slots: int) -> None:
        self._num_touched[row] = max(self._num_touched[row], num_slots)


def _zeros_on(device: torch.device) -> Callable[[tuple[int, ...], torch.dtype], Tensor]:
    return lambda shape, dtype: _zeros(shape, dtype, device)


@torch.inference_mode(False)  # a cache that grows within a turn is zeroed between turns, too
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
        *_, num_rows, _, num_slots, _ = shape
        raise CacheError(
            f"a KV cache of {num_rows} questions × {num_slots} tokens takes {format_bytes(num_bytes)} in every layer, "
            "more than this machine has: use a smaller batch_size, max_new_tokens or latent_steps"
        ) from error
    return torch.frombuffer(pages, dtype=dtype).view(shape)
