"""The rows of one forward, and which slots of the cache each new token sees.

Without a window a token sees all slots of its row up to its own. In a layer with a window of W it sees those whose
positions are above p − W, where p is its own position: positions, and not slots, because memory may have holes (an
agent hands over only its thoughts) and because parallel branches were moved.

Dimensions: L layers, R rows of a call, B rows, T new tokens of a row, S visible slots, C 2 (key, value), H KV heads,
D head dim, N tokens.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from latentmas_ray.models.attention.mass import AttentionMass


class SlotPositions:
    """The position of each slot of a cache's rows, on the CPU. Layers may keep different tokens (an eviction by layer);
    `of` a layer without its own are those of all."""

    def __init__(self, num_rows: int, num_slots: int) -> None:
        self._shared_BS = torch.zeros(num_rows, num_slots, dtype=torch.int64)
        self._own: dict[int, Tensor] = {}

    def of(self, layer: int) -> Tensor:
        """The positions in one layer, [B, S]. The object is the same for layers that share them."""
        return self._own.get(layer, self._shared_BS)

    def put(self, row: int, first: int, positions: Sequence[Tensor]) -> None:
        """Set the positions [T] of a row's slots from `first` on: one for all layers, or one for each."""
        stop = first + len(positions[0])
        if len(positions) > 1 and any(not torch.equal(one, positions[0]) for one in positions[1:]):
            for layer in range(len(positions)):
                self._own.setdefault(layer, self._shared_BS.clone())
        for own_BS in (self._shared_BS, *self._own.values()):
            own_BS[row, first:stop] = positions[0]
        for layer, own_BS in self._own.items():
            own_BS[row, first:stop] = positions[layer % len(positions)]

    def copy_row(self, source: int, row: int, length: int) -> None:
        """Copy the first `length` positions of one row to another."""
        for own_BS in (self._shared_BS, *self._own.values()):
            own_BS[row, :length] = own_BS[source, :length]

    def resize(self, num_rows: int, num_slots: int, num_kept: int) -> None:
        """Change the number of rows and slots; the first `num_kept` rows keep theirs."""

        def resized(old_BS: Tensor) -> Tensor:
            new_BS = old_BS.new_zeros(num_rows, num_slots)
            slots = min(num_slots, old_BS.shape[1])
            new_BS[:num_kept, :slots] = old_BS[:num_kept, :slots]
            return new_BS

        self._shared_BS = resized(self._shared_BS)
        self._own = {layer: resized(own_BS) for layer, own_BS in self._own.items()}


@dataclass(frozen=True)
class View:
    """What a call reads: slots from `first` on, with an additive mask; None if every token sees all of them."""

    first: int
    mask: Tensor | None


_EVERYTHING = View(0, None)


class AttentionCall:
    """Neighbouring rows whose attention is one call: rows with one new token each, or one row with any number.

    Row `first_row` + r has `starts[r]` tokens, and `count` new ones follow them. The new tokens of the rows are those
    from `first_token` on.
    """

    def __init__(self, first_row: int, first_token: int, starts: Sequence[int], count: int) -> None:
        self.first_row, self.first_token, self.starts, self.count = first_row, first_token, list(starts), count
        self.num_visible = max(starts) + count
        self.is_even = len(set(starts)) == 1  # then a step needs no mask
        self.rows = slice(first_row, first_row + len(starts))
        self.tokens = slice(first_token, first_token + len(starts) * count)
        # Masks and indices serve every layer, so they are made once per device.
        self._slots: dict[tuple[torch.device, torch.Size], Tensor] = {}
        self._views: dict[tuple[int, torch.device, int | None, int], View] = {}

    @property
    def num_rows(self) -> int:
        return len(self.starts)

    def slots(self, kv_CBHTD: Tensor) -> Tensor:
        """Where single tokens go, [C·H·N]: keys before values, head by head, as indices of `kv_CBHTD` [C·B·H·T, D]."""
        key = (kv_CBHTD.device, kv_CBHTD.shape)  # layers have different shapes after a resize that failed
        if key not in self._slots:
            num_kinds, num_rows, num_heads, num_slots, _ = kv_CBHTD.shape
            kinds_C11 = torch.arange(num_kinds)[:, None, None] * num_rows
            rows_N = torch.arange(self.rows.start, self.rows.stop)
            heads_H1 = torch.arange(num_heads)[:, None]
            slots_CHN = ((kinds_C11 + rows_N) * num_heads + heads_H1) * num_slots + torch.tensor(self.starts)
            self._slots[key] = slots_CHN.flatten().to(kv_CBHTD.device)
        return self._slots[key]

    def single_tokens(self) -> list["AttentionCall"]:
        """A call for each of a row's tokens."""
        return [
            AttentionCall(self.first_row, self.tokens.start + index, [self.starts[0] + index], 1)
            for index in range(self.count)
        ]

    def view(self, num_groups: int, like: Tensor, window: int | None, positions_BS: Tensor | None) -> View:
        """The view of a layer: its mask is that of single tokens [R, 1, 1, S], or that of a row's tokens [G·T, S], G
        query heads of a KV head one after another. `positions_BS` are the slots' positions, needed with a window."""
        if self.count == 1 and self.is_even and positions_BS is None:
            return _EVERYTHING
        key = (num_groups, like.device, window, id(positions_BS))
        if key not in self._views:
            if window is None or positions_BS is None:
                self._views[key] = self._make_causal(num_groups, like)
            else:
                self._views[key] = self._make_windowed(num_groups, like, window, positions_BS)
        return self._views[key]

    def _make_causal(self, num_groups: int, like: Tensor) -> View:
        slots = torch.arange(self.num_visible, device=like.device)
        if self.num_rows > 1:
            hidden = slots > torch.tensor(self.starts, device=like.device)[:, None]
            return View(0, _additive(hidden, like)[:, None, None])
        hidden = slots > torch.arange(self.starts[0], self.num_visible, device=like.device)[:, None]
        return View(0, _additive(hidden, like).repeat(num_groups, 1))

    def _make_windowed(self, num_groups: int, like: Tensor, window: int, positions_BS: Tensor) -> View:
        starts_R1 = torch.tensor(self.starts)[:, None]
        slots_S = torch.arange(self.num_visible)
        positions_RS = positions_BS[self.rows, : self.num_visible]
        own_RT = positions_RS.gather(1, starts_R1 + torch.arange(self.count))
        is_used_RS = slots_S < starts_R1 + self.count
        first_R = positions_RS.masked_fill(~is_used_RS, torch.iinfo(torch.int64).max).amin(1)
        if bool((first_R > own_RT.amax(1) - window).all()):  # the last tokens still see all slots
            return self.view(num_groups, like, None, None)
        # The first slot that a new token of its row can see is where the call begins to read.
        is_near_RS = is_used_RS & (positions_RS > own_RT.amin(1, keepdim=True) - window)
        first = int(is_near_RS.any(0).nonzero()[0])
        positions_RS, own_RT = positions_RS[:, first:].to(like.device), own_RT.to(like.device)
        slots_S, starts_R1 = slots_S[first:].to(like.device), starts_R1.to(like.device)
        last_RT1 = (starts_R1 + torch.arange(self.count, device=like.device))[:, :, None]
        hidden_RTS = (slots_S > last_RT1) | (positions_RS[:, None] <= own_RT[:, :, None] - window)
        if self.num_rows > 1:
            return View(first, _additive(hidden_RTS[:, 0], like)[:, None, None])
        return View(first, _additive(hidden_RTS[0], like).repeat(num_groups, 1))


class Packing:
    """The rows of one forward's new tokens: `counts[b]` tokens follow row b's first `starts[b]` tokens.

    Rows with one new token share a call of attention, which reads all of them to the end of the longest. With
    `max_padding` a row that would add more slots than that to what the call reads in vain begins another call.
    `windows` are those of the layers, and `positions` those of all slots up to the new tokens'; without windows both
    are not needed.
    """

    def __init__(
        self,
        starts: Sequence[int],
        counts: Sequence[int],
        max_padding: int | None = None,
        *,
        windows: Sequence[int | None] = (),
        positions: SlotPositions | None = None,
    ) -> None:
        self.starts, self.counts = list(starts), list(counts)
        self.num_visible = max((start + count for start, count in zip(starts, counts, strict=True)), default=0)
        self.calls = divide(self.starts, self.counts, sys.maxsize if max_padding is None else max_padding)
        self._windows, self.positions = windows, positions
        # Added to a token's place in the forward it is the token's position; for models that ask a cache for it.
        self.seen: Tensor | None = None
        self.mass: AttentionMass | None = None  # gets the attention of this forward's tokens
        self.updated: int | None = None  # the layer whose cache the forward has just updated

    def of_call(self, call: AttentionCall) -> "Packing":
        """The packing of a forward over one call's tokens alone."""
        alone = copy(self)
        alone.calls = [AttentionCall(call.first_row, 0, call.starts, call.count)]
        alone.num_visible = call.num_visible
        return alone

    def layer_of(self, module: nn.Module) -> int:
        """The layer that a call of attention is for: the one whose cache was just updated, because a block that several
        layers share has no number, or that of its first layer; else the module's own."""
        layer, self.updated = self.updated, None
        return int(module.layer_idx) if layer is None else layer  # type: ignore[arg-type]  # an int

    def window(self, layer: int) -> tuple[int | None, Tensor | None]:
        """A layer's window and its slots' positions [B, S]; (None, None) for one that sees everything."""
        if self.positions is None or self._windows[layer] is None:
            return None, None
        return self._windows[layer], self.positions.of(layer)


_CURRENT: ContextVar[Packing | None] = ContextVar("packing", default=None)


def current() -> Packing | None:
    """The packing of the forward that this thread is in."""
    return _CURRENT.get()


@contextmanager
def packed(packing: Packing) -> Iterator[None]:
    """Context whose forward is over these rows. Not an argument of the model: some families do not pass arguments that
    they do not know on to their attention."""
    token = _CURRENT.set(packing)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def divide(starts: Sequence[int], counts: Sequence[int], max_padding: int) -> list[AttentionCall]:
    """Divide rows into calls; rows without a new token are in none."""
    calls: list[AttentionCall] = []
    first_token = row = 0
    while row < len(counts):
        stop = row + 1
        if counts[row] == 1:
            longest = starts[row]
            while stop < len(counts) and counts[stop] == 1:
                start = starts[stop]
                if max(longest - start, (start - longest) * (stop - row)) > max_padding:
                    break
                longest = max(longest, start)
                stop += 1
        if counts[row]:
            calls.append(AttentionCall(row, first_token, starts[row:stop], counts[row]))
        first_token += sum(counts[row:stop])
        row = stop
    return calls


def _additive(hidden: Tensor, like: Tensor) -> Tensor:
    """A float mask; a bool mask would be converted in every layer."""
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)
