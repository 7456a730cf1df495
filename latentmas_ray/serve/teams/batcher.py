"""Dynamic batching: while the thinking agents are busy, questions with equal settings collect, and go as one batch.

Nothing waits while they are idle, unless that costs no time: where the agents that write have a backlog of twice what
they write at once, a question would only wait there, and a lot that is not full waits for more questions before it
thinks. Answers that were begun after it had come hold it no longer: there may always be more of them. A lot is one
batch, one run of the scheduler. It starts when the agents that read nothing are free and the pipeline of agents behind
them is not full; answers that are written question by question are batched continuously by their engine, whatever the
lot. Everything here runs in one event loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from latentmas_ray.runs.run_events import TurnFinished
from latentmas_ray.serve.teams.reply import Reply

_BACKLOG = 2  # times what is written at once: what is written now, and as many questions that can start at once


@dataclass(eq=False)
class Lot:
    """Questions that go through the agents together."""

    replies: tuple[Reply, ...]
    roots: set[str] = field(default_factory=set)  # agents that read nothing and have not finished
    thinkers: set[str] = field(default_factory=set)  # agents that hold a place of the pipeline and have not finished
    writers: frozenset[str] = frozenset()  # as of its `Stages`
    passed: frozenset[Reply] = frozenset()  # that had come before, and waited when it started

    @property
    def num_open(self) -> int:
        """How much its questions without an answer are, in questions with the server's own number of samples."""
        return sum(reply.request.weight for reply in self.replies if not reply.is_over)

    def note(self, event: TurnFinished) -> bool:
        """Note that an agent has finished its turn. Returns whether others may start for that."""
        before = bool(self.roots), bool(self.thinkers)
        self.roots.discard(event.report.agent)
        self.thinkers.discard(event.report.agent)
        return before != (bool(self.roots), bool(self.thinkers))


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The agents of a served model: those that hold a place while they work, and those that write question by question
    and hold none."""

    roots: frozenset[str]  # of the thinkers, those that read nothing
    thinkers: frozenset[str]
    replicas: int  # of each
    writers: frozenset[str]  # whose actors write for the others: models may share them


class Batcher:
    """Collects replies and starts lots."""

    def __init__(
        self,
        stages_of: Callable[[Reply], Stages],
        writes_at_once: Callable[[Reply], int | None],
        start: Callable[[Lot], None],
        most_questions: int,
    ) -> None:
        """`writes_at_once` returns how many answers of a reply's model are written at the same time, now, or None
        where a whole batch is one turn; `start` begins the run of a lot, which calls `finish` at its end;
        `most_questions` of a lot."""
        self._stages_of, self._writes_at_once = stages_of, writes_at_once
        self._start, self._most = start, most_questions
        self._waiting: list[Reply] = []  # oldest first
        self._alone: set[Reply] = set()  # of those that wait
        self._lots: set[Lot] = set()
        self._is_closed = False

    @property
    def num_waiting(self) -> int:
        """Questions that no agent works on yet."""
        return len(self._waiting)

    @property
    def num_lots(self) -> int:
        """Lots whose run is not over."""
        return len(self._lots)

    def add(self, reply: Reply) -> None:
        """Add a question, and start it if there is a place."""
        self._waiting.append(reply)
        self.start_next()

    def add_alone(self, replies: Sequence[Reply]) -> None:
        """Add questions of a lot that failed by one of them: each comes next, and in a lot of its own."""
        self._alone.update(replies)
        self._waiting[:0] = replies
        self.start_next()

    def remove(self, reply: Reply) -> bool:
        """Drop a question that waits. Returns whether it did."""
        if reply in self._waiting:
            self._waiting.remove(reply)
            self._alone.discard(reply)
            self.start_next()  # others may have waited behind it
            return True
        return False

    def note(self, lot: Lot, event: TurnFinished) -> None:
        """Note that an agent has finished its turn over a lot."""
        if lot.note(event):
            self.start_next()

    def finish(self, lot: Lot) -> None:
        """Forget a lot whose run is over."""
        self._lots.discard(lot)
        self.start_next()

    def close(self) -> list[Reply]:
        """Start nothing from now on. Returns the questions that wait, which are dropped."""
        self._is_closed = True
        waiting, self._waiting = self._waiting, []
        self._alone.clear()
        return waiting

    def start_next(self) -> None:
        """Start lots while there is a place for the oldest question that waits, or for one that needs none. To be
        called whenever a question of a lot is over, too: a lot may wait for that."""
        held: list[Reply] = []
        for first in [] if self._is_closed else list(self._waiting):
            if first not in self._waiting:
                continue  # it went with another
            stages = self._stages_of(first)
            # Those behind a question that waits wait, too: else it could wait for ever.
            if stages.thinkers and (held or not self._has_place(stages) or self._waits_for_more(first, stages)):
                held.append(first)
                continue
            replies = self._collect(first)
            self._waiting = [reply for reply in self._waiting if reply not in replies]
            self._alone.difference_update(replies)
            lot = Lot(
                tuple(replies), set(stages.roots), set(stages.thinkers), writers=stages.writers, passed=frozenset(held)
            )
            self._lots.add(lot)
            self._start(lot)

    def _has_place(self, stages: Stages) -> bool:
        at_roots = sum(bool(lot.roots) for lot in self._lots)
        thinking = sum(bool(lot.thinkers) for lot in self._lots)
        return at_roots < stages.replicas and thinking <= stages.replicas * len(stages.thinkers)

    def _waits_for_more(self, first: Reply, stages: Stages) -> bool:
        """Whether the lot of a question would wait for the agents that write anyway, and may still get more."""
        at_once = self._writes_at_once(first)
        if at_once is None or first in self._alone:
            return False
        thought = (lot for lot in self._lots if not lot.thinkers and lot.writers & stages.writers)
        backlog = sum(lot.num_open for lot in thought if first not in lot.passed)
        return backlog >= _BACKLOG * at_once and len(self._collect(first)) < self._most

    def _collect(self, first: Reply) -> Sequence[Reply]:
        """Return the questions that may go with the first, itself included. Those of one lot have different ids."""
        chosen = {first.question.id: first}
        if first in self._alone:
            return [first]
        for reply in self._waiting:
            if len(chosen) >= self._most:
                break
            if reply.request.batch_key == first.request.batch_key and reply not in self._alone:
                chosen.setdefault(reply.question.id, reply)
        return list(chosen.values())
