"""What a model asks of attention: which mask each layer gets, and whether its attention is called at all.

While a `Recorder` is active, a forward outside of an engine notes for each layer the function that made its mask. That
function says which positions a token sees, at any length, without a forward of that length.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig
from transformers.masking_utils import sdpa_mask

_PLAIN = {"position_ids", "cache_position"}  # tensors that many families pass on, and no attention here needs
MaskFunction = Callable[..., Tensor]  # (batch, head, query position, key position) → whether it is seen


class Recorder:
    """The masks of one forward. `seen` has every layer whose attention was called, `functions` those whose mask came
    from transformers' functions, `made_functions` all of these."""

    def __init__(self) -> None:
        self.seen: dict[int, Tensor | None] = {}
        self.functions: dict[int, MaskFunction] = {}
        self.made_functions: list[MaskFunction] = []
        self._made: list[tuple[Tensor, MaskFunction]] = []  # the masks stay, so that no other gets their address
        self._updated: int | None = None
        self.two_sided: set[int] = set()  # layers whose tokens also see what comes after them
        self.extras: set[str] = set()  # what attention was given besides queries, keys, values and a mask

    def updated(self, layer: int) -> None:
        """Note that the cache of a layer was updated: the next call of attention is for it."""
        self._updated = layer

    def made(self, mask: Tensor, function: MaskFunction) -> None:
        """Note a mask that was made."""
        self._made.append((mask, function))
        self.made_functions.append(function)

    def called(self, module: nn.Module, mask: Tensor | None, extras: Mapping[str, Any]) -> None:
        """Note that a layer's attention was called with this mask, and with other arguments by name."""
        layer, self._updated = self._updated, None
        if layer is None:  # of a block that several layers share, and that has no number, it does not matter here
            layer = -1 if module.layer_idx is None else int(module.layer_idx)  # type: ignore[arg-type]  # an int
        self.seen[layer] = mask
        # Without a mask transformers computes what `is_causal` says, and most masks are left out where they are causal.
        if not getattr(module, "is_causal", True) or (mask is not None and shows_later(mask)):
            self.two_sided.add(layer)
        self.extras |= {name for name, value in extras.items() if isinstance(value, Tensor)} - _PLAIN
        for made, function in self._made:
            if mask is not None and mask.data_ptr() == made.data_ptr():
                self.functions[layer] = function


def shows_later(mask: Tensor) -> bool:
    """Whether a mask of a forward over a whole prompt, [1, …, T, T], shows what comes after a token."""
    shown = mask if mask.dtype == torch.bool else mask > -1
    return bool(shown.triu(1).any())


class NotedCache(DynamicCache):  # type: ignore[misc]  # transformers is untyped here
    """The cache of a forward that a recorder notes. Several layers may share one block, which has no number."""

    def __init__(self, config: PretrainedConfig, recorder: Recorder) -> None:
        super().__init__(config=config)
        self._recorder = recorder

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """See `transformers.Cache`."""
        self._recorder.updated(layer_idx)
        updated: tuple[Tensor, Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return updated


_active: Recorder | None = None


def active() -> Recorder | None:
    """The recorder that is active in this process."""
    return _active


@contextmanager
def recording(recorder: Recorder) -> Iterator[Recorder]:
    """Context whose forwards are noted."""
    global _active
    _active = recorder
    try:
        yield recorder
    finally:
        _active = None


def make_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """`sdpa`'s mask, which outside of an engine is the one of the packed attention, too."""
    if _active is None or "mask_function" not in kwargs:
        plain: Tensor | None = sdpa_mask(*args, **kwargs)
        return plain
    mask: Tensor = sdpa_mask(*args, **{**kwargs, "allow_is_causal_skip": False})
    _active.made(mask, kwargs["mask_function"])
    return mask
