"""Moves labels at the ends of lines apart where they would overlap."""

from collections.abc import Sequence


def spread(places: Sequence[float], gap: float, *, low: float, high: float) -> list[float]:
    """Return positions for labels that belong at `places`: at least `gap` apart and from `low` to `high`, in one unit.

    Minimises the sum of squared moves. After subtracting one gap per preceding label, positions must not decrease: this
    is isotonic regression, solved by pooling adjacent violators (Ayer et al. 1955). If there is too little room, labels
    are spread evenly. The result is in the order of `places`.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    if len(places) > 1:
        gap = min(gap, (high - low) / (len(places) - 1))
    pools: list[tuple[float, int]] = []  # sum and count of places that are merged
    for rank, index in enumerate(order):
        total, count = places[index] - rank * gap, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            before, num_before = pools.pop()
            total, count = total + before, count + num_before
        pools.append((total, count))
    top = high - (len(places) - 1) * gap
    pooled = [min(max(total / count, low), top) for total, count in pools for _ in range(count)]
    found = dict(zip(order, (base + rank * gap for rank, base in enumerate(pooled)), strict=True))
    return [found[index] for index in range(len(places))]
