"""A layer that keeps states: linear attention, state-space layers, short convolutions; alone or next to attention.

A state sums up all tokens before it, so it has no slots: each row has one of each kind. transformers reads and writes a
layer's states for all rows of a forward at once, so a forward takes rows whose tokens are equally many (see
`BatchCache.begin_call`), and finds here views of just these rows.

Dimensions: B rows, S numbers of one state.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionLayer

from latentmas_ray.memory import LayerSpec
from latentmas_ray.models.attention import AttentionCall
from latentmas_ray.models.layers.slots import SlotLayer, Zeros

STATE_KINDS = ("conv", "recurrent")  # as transformers names them: of a short convolution, and of the recurrence


def state_name(kind: str, number: int) -> str:
    """The name of a layer's state in its spec."""
    return f"{kind}_{number}"


class StateLayer(LinearAttentionLayer):  # type: ignore[misc]  # transformers is untyped here
    """A layer that keeps states alone. `begin_call` shows transformers those of a forward's rows."""

    def __init__(self, spec: LayerSpec, num_rows: int, num_slots: int, zeros: Zeros, device: torch.device) -> None:
        """`zeros` reserves slots, which a state does not have."""
        LinearAttentionLayer.__init__(self, number_of_states=_count(spec))
        self.spec, self.device = spec, device
        self.blocks, self.tensors = list[Tensor](), list[Tensor]()
        self.states: list[Tensor] = []  # [B, S] each
        self.reserve(num_rows, num_slots, zeros)

    def reserve(self, num_rows: int, num_slots: int, zeros: Zeros, lengths: Sequence[int] = ()) -> None:
        """Reserve other rows, and keep the states of the first `len(lengths)`."""
        old, kept = self.states, len(lengths)
        with torch.inference_mode(False):  # rows that are added within a turn are zeroed between turns, too
            self.states = [
                torch.zeros(num_rows, state.head_dim, dtype=state.torch_dtype, device=self.device)
                for state in self.spec.states
            ]
        for new_BS, old_BS in zip(self.states, old, strict=bool(kept)):
            new_BS[:kept] = old_BS[:kept]
        self.num_rows, self.num_slots = num_rows, num_slots

    def begin_call(self, call: AttentionCall) -> None:
        """Show transformers the states of the call's rows; it changes them in place."""
        views = {
            state.name: state_BS[call.rows].view(-1, *(state.state_dims or ()))
            for state, state_BS in zip(self.spec.states, self.states, strict=True)
        }
        has_tokens = any(call.starts)  # a row without tokens has zeros, which is where a model begins
        for number in range(self.number_of_states):
            conv, recurrent = (views.get(state_name(kind, number)) for kind in STATE_KINDS)
            self.conv_states[number], self.recurrent_states[number] = conv, recurrent
            self.is_conv_states_initialized[number] = conv is not None
            self.is_recurrent_states_initialized[number] = recurrent is not None
            self.conv_kernel_size[number] = None if conv is None else conv.shape[-1]
            self.has_previous_state[number] = has_tokens


class StateAndSlotLayer(StateLayer, SlotLayer):
    """A layer with attention and states side by side."""

    def __init__(self, spec: LayerSpec, num_rows: int, num_slots: int, zeros: Zeros, device: torch.device) -> None:
        LinearAttentionLayer.__init__(self, number_of_states=_count(spec))
        SlotLayer.__init__(self, spec, num_rows, num_slots, zeros, device)

    def reserve(self, num_rows: int, num_slots: int, zeros: Zeros, lengths: Sequence[int] = ()) -> None:
        """See `SlotLayer` and `StateLayer`."""
        SlotLayer.reserve(self, num_rows, num_slots, zeros, lengths)
        StateLayer.reserve(self, num_rows, num_slots, zeros, lengths)

    def lazy_initialization(self, *args: object, **kwargs: object) -> None:
        """Nothing to do: slots and states were reserved."""


def _count(spec: LayerSpec) -> int:
    """How many states of one kind a layer has."""
    return max(int(state.name.rpartition("_")[2]) for state in spec.states) + 1
