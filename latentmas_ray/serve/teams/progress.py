"""How far the agents are while they work, for streams that show it."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from latentmas_ray.engine.timing.progress import Step, TurnProgress
from latentmas_ray.serve.teams.events import Record

ASK_SECONDS = 0.2  # between two snapshots
_WHAT: Mapping[Step, str] = {"prompt": "reads", "latent step": "thinks", "token": "writes"}


class RunningTurns:
    """Snapshots of all running turns. However many streams show them, the actors are asked a few times a second."""

    def __init__(
        self, ask: Callable[[], Sequence[TurnProgress]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`ask` is called in a thread, and may wait for actors. `clock` is in seconds."""
        self._ask, self._clock = ask, clock
        self._lock = asyncio.Lock()
        self._turns: Sequence[TurnProgress] = ()
        self._at: float | None = None

    async def fetch(self) -> Sequence[TurnProgress]:
        """Return the last snapshot, or a new one if that is older than `ASK_SECONDS`."""
        async with self._lock:
            if self._at is None or self._clock() - self._at >= ASK_SECONDS:
                self._turns = await asyncio.to_thread(self._ask)
                self._at = self._clock()
            return self._turns


class QuestionProgress:
    """Makes records of the running turns over one question, each when it has changed."""

    def __init__(self, question_id: str) -> None:
        self._id = question_id
        self._last: dict[str, Record] = {}  # by agent

    def update(self, turns: Iterable[TurnProgress], finished: Collection[str]) -> Iterator[Record]:
        """Yield what has changed. `finished` are agents whose turn is over, which a snapshot may not know yet."""
        for turn in turns:
            if self._id not in turn.question_ids or turn.agent in finished:
                continue
            record: Record = {"agent": turn.agent, "what": _WHAT[turn.step], "running": True}
            if turn.step == "latent step":
                record |= {"latent_steps": turn.num_done, "of": turn.num_total}
            elif turn.step == "token" and len(turn.question_ids) == 1:  # else it is about the longest text of several
                record |= {"tokens": turn.num_done, "of": turn.num_total}
            if record != self._last.get(turn.agent):
                self._last[turn.agent] = record
                yield record
