"""Which positions a token of each layer sees, read off the functions that make the model's masks."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from inspect import getclosurevars, isfunction
from itertools import repeat

import torch
from transformers.masking_utils import or_masks

from latentmas_ray.errors import ModelError
from latentmas_ray.models.attention.recorder import MaskFunction, Recorder

_ONE_SIDED = "a token must see itself and what is before it alone"
_MOST = 2**20  # positions up to which a mask is followed: no window is larger


def find_windows(seen: Recorder, has_keys: Sequence[bool], limit: int | None, name: str) -> tuple[int | None, ...]:
    """Each layer's sliding window; None for a layer that sees everything before a token at all of `limit` positions,
    and for one without attention. `has_keys`: whether each layer caches keys.

    Raises ModelError for a layer whose attention was not called, and for masks of other kinds.
    """
    num_layers = len(has_keys)
    if away := [layer for layer in range(num_layers) if has_keys[layer] and layer not in seen.seen]:
        expected = "the attention of all its layers must go through transformers' attention interface; that of"
        raise ModelError("model", name, f"{expected} layer {away[0]} does not: use a family of which it does, as most")
    if seen.two_sided:
        raise ModelError("model", name, f"{_ONE_SIDED}; layer {min(seen.two_sided)} also sees what comes after")
    most = min(limit or _MOST, _MOST)
    windows: dict[int, int | None] = {}
    for layer in sorted(seen.seen):
        mask, function = seen.seen[layer], seen.functions.get(layer)
        if function is not None and id(function) not in windows:
            num_tokens = 0 if mask is None else mask.shape[-1]
            windows[id(function)] = find_window(_rule(_of_text(function, num_tokens)), most, f"layer {layer}", name)
        # What a model has made of a mask can only be compared at a few positions.
        is_unknown = function is None and mask is not None
        if is_unknown and not (all(map(_is_full, seen.made_functions, repeat(most))) and _is_causal(mask)):
            expected = f"its masks must come from transformers' functions; layer {layer} makes its own"
            raise ModelError("model", name, f"{expected}, whose rule is not known")
    return tuple(windows[id(seen.functions[layer])] if layer in seen.functions else None for layer in range(num_layers))


def _rule(function: MaskFunction) -> Callable[[int, int], bool]:
    zero = torch.zeros((), dtype=torch.int64)
    return lambda query, key: bool(function(zero, zero, torch.tensor(query), torch.tensor(key)))


def _of_text(function: MaskFunction, num_tokens: int) -> MaskFunction:
    """The mask of a text: without what is seen in addition among the tokens of one image, which is known by token and
    shows nothing among those of a prompt."""
    parts = getclosurevars(function).nonlocals.get("mask_functions") if isfunction(function) else None
    if not parts or function.__name__ != "or_mask":
        return function
    shown = [part for part in parts if _shows_any(part, num_tokens)]
    return function if len(shown) == len(parts) else or_masks(*shown)


def _shows_any(function: MaskFunction, num_tokens: int) -> bool:
    sees = _rule(function)
    return any(sees(query, key) for query in range(num_tokens) for key in range(num_tokens))


def _is_full(function: MaskFunction, most: int) -> bool:
    try:
        return find_window(_rule(function), most, "a layer", "") is None
    except ModelError:
        return False


def find_window(sees: Callable[[int, int], bool], limit: int, where: str, name: str) -> int | None:
    """The window W if a query at p sees positions above p − W and none after p; None if it sees all before, at up to
    `limit` positions. `sees(query, key)` is the mask. Raises ModelError for every other rule."""

    def first_seen(query: int) -> int:
        low, high = 0, query  # what is seen is one run that ends at the query
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if sees(query, middle) else (middle + 1, high)
        return low

    last = limit - 1
    if any(sees(query, query + 1) for query in {0, last // 2, last}) or not sees(last, last):
        raise ModelError("model", name, f"{_ONE_SIDED}; {where} sees otherwise")
    if (first := first_seen(last)) == 0 and sees(last, last // 2):
        return None
    window = last - first + 1
    probes = {query for query in (0, window - 1, window, window + 7, last // 2, last - 1) if 0 <= query <= last}
    if any(first_seen(query) != max(0, query - window + 1) for query in probes):
        size = bisect_left(range(last), True, key=lambda query: first_seen(query) > 0)
        expected = f"its layers must see everything before a token, or a sliding window of it; {where} sees chunks of"
        raise ModelError("model", name, f"{expected} {size} positions, so at most {size} positions can be used")
    return window


def _is_causal(mask: torch.Tensor | None) -> bool:
    """Whether a mask of a forward without cache, [1, …, T, T], hides exactly what comes later; without one `sdpa`
    does."""
    if mask is None:
        return True
    hidden = ~mask if mask.dtype == torch.bool else mask < -1
    return bool((hidden == torch.ones_like(hidden).triu(1)).all())
