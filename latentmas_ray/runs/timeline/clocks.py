"""Puts the times of other machines on the driver's clock.

A turn begins after it was submitted and ends before its result is seen, both by the driver's clock. So each turn of a
node bounds by how much that node's clock differs: it is at least `submitted_at - begin`, and at most `seen_at - end`,
that must be added to the node's times. With many turns both bounds are within milliseconds of the truth: that of a turn
that found its replica idle, and that of a turn whose result was fetched at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from latentmas_ray.runs.timeline.rows import SpanRow, TurnRow


@dataclass(frozen=True, kw_only=True)
class NodeClock:
    """How the clock of one node differs from the driver's."""

    least: float  # the bounds of what must be added to its times, in seconds
    most: float

    @property
    def is_consistent(self) -> bool:
        """Whether one value fits all turns; if not, the clock was changed during the run."""
        return self.least <= self.most

    @property
    def shift(self) -> float:
        """The seconds that are added to its times: 0 if the clocks may agree, else the middle of the bounds."""
        return 0.0 if self.least <= 0.0 <= self.most else (self.least + self.most) / 2

    @property
    def error(self) -> float:
        """By how many seconds its times may still be wrong."""
        if not self.is_consistent:
            return self.least - self.most
        return max(self.most - self.shift, self.shift - self.least)


class NodeClocks:
    """The clocks of the nodes, by the first node of the turns' replicas, whose clock their spans have. Every turn makes
    the bounds tighter."""

    def __init__(self, turns: Iterable[TurnRow] = ()) -> None:
        self.by_node: dict[str, NodeClock] = {}
        for turn in turns:
            self.add(turn)

    def add(self, turn: TurnRow) -> None:
        """Take one more turn into account."""
        spans = [*turn.spans, *(span for spans in turn.question_spans for span in spans)]
        if not spans:
            return
        least = turn.submitted_at - min(begin for _, begin, _ in spans)
        most = turn.seen_at - max(end for _, _, end in spans)
        node = node_of(turn)
        if (known := self.by_node.get(node)) is not None:
            least, most = max(least, known.least), min(most, known.most)
        self.by_node[node] = NodeClock(least=least, most=most)

    def on_drivers_clock(self, turn: TurnRow) -> TurnRow:
        """Return a turn with its spans on the driver's clock, as far as the turns so far tell."""
        clock = self.by_node.get(node_of(turn))
        if clock is None or not clock.shift:
            return turn
        return replace(
            turn,
            spans=_moved(turn.spans, clock.shift),
            question_spans=tuple(_moved(spans, clock.shift) for spans in turn.question_spans),
        )


def node_of(turn: TurnRow) -> str:
    """Return the node whose clock a turn's spans have; empty for the driver's process."""
    return turn.nodes[0] if turn.nodes else ""


def _moved(spans: tuple[SpanRow, ...], seconds: float) -> tuple[SpanRow, ...]:
    return tuple((phase, begin + seconds, end + seconds) for phase, begin, end in spans)
