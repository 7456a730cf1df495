"""Labels at the ends of lines: moved apart where they would touch."""

from collections.abc import Sequence


def spread(places: Sequence[float], gap: float, *, low: float, high: float) -> list[float]:
    """Where labels go that belong at `places`: at least `gap` apart and within `low` … `high`, all in one unit.

    The sum of the squared moves is least. Less one gap for each label below it, a label's place must not be lower than
    that of the label before it: isotonic regression, by pooling adjacent violators (Ayer et al. 1955). Where there are
    more labels than room, they are spread evenly. The order of the result is that of `places`.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    if len(places) > 1:
        gap = min(gap, (high - low) / (len(places) - 1))
    pools: list[tuple[float, int]] = []  # sum and count of places that become one
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
