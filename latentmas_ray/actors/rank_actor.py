"""The actor of one tensor-parallel rank of an agent's replica.

All ranks of a replica are given the same turns. In which order they begin, rank 0 decides, for the calls may arrive in
another order at every rank.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import ray
import torch

from latentmas_ray.actors.agent_actor import AgentActor, Loaded
from latentmas_ray.actors.errors import memory_errors
from latentmas_ray.actors.execute_turn import Runner, stamp_departure
from latentmas_ray.actors.receiver import IncomingSegment, SentChunk
from latentmas_ray.actors.replicas.sharded_transport import ShardedTransport, join_chunks
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.errors import ShardError
from latentmas_ray.memory import TPRank
from latentmas_ray.parallel.process_group import STEP_SECONDS, RankGroup, find_store, open_store
from latentmas_ray.parallel.ranks import ALONE, Ranks
from latentmas_ray.transport import Transport

T = TypeVar("T")
# A call waits in its thread for what it reads, and for its turn; there must be room for the one that is to be next.
RANK_GROUPS = {"turns": 32, "ends": 32, "side": 1, "fetch": 1}


@dataclass(frozen=True)
class Source:
    """Where a rank finds its heads of one segment: `chunks[part][i]` is a reference to what `shards[i]` has of it."""

    shards: tuple[TPRank, ...]
    chunks: tuple[tuple[Any, ...], ...]

    def wait(self, part: int) -> SentChunk:
        """One part, when all shards of it have come. Raises what kept it from coming."""
        with memory_errors():
            return join_chunks(self.shards, ray.get(list(self.chunks[part])))


@dataclass(frozen=True)
class _Waiting:
    turn: Callable[[], Any]
    done: "Future[Any]"


class RankActor(AgentActor):
    """An `AgentActor` that does nothing without the other ranks of its replica."""

    def __init__(
        self,
        make_runner: Callable[..., Runner],
        num_threads: int,
        shard: TPRank,
        step_seconds: float = STEP_SECONDS,
    ) -> None:
        """`make_runner(ranks=…)` loads this rank's shard."""
        super().__init__(lambda: make_runner(ranks=self._ranks), num_threads)
        self._shard, self._step_seconds = shard, step_seconds
        self._ranks: Ranks = ALONE
        self._meeting: Any = None
        self._arrived = threading.Condition()
        self._waiting: dict[int, _Waiting] = {}  # by the number of the turn, in the order of arrival

    def open_rendezvous(self) -> tuple[str, int]:
        """Rank 0: where the others find it."""
        host = ray.util.get_node_ip_address()
        self._meeting = open_store(host, timeout_seconds=self._step_seconds)
        return host, self._meeting.port

    def load_shard(self, address: tuple[str, int], transport: Transport | None = None) -> Loaded:
        """Meet the other ranks and load the model with them; with a transport `use` that."""
        self._engine.submit(self._join, *address).result()
        return self.load(transport)

    def use(self, transport: Transport) -> None:
        """Have memory travel this way from now on."""
        super().use(ShardedTransport(transport, self._ranks))

    def run_rank(
        self, number: int, work: TurnRequest, sources: Sequence[Source]
    ) -> tuple[SentChunk | None, TurnResult]:
        """This rank's part of one turn: its packed segment and its report, as two objects."""
        self._is_ready.wait()
        sent: list[SentChunk] = []
        first = [_wait_or_fail(source) for source in sources]
        turn = partial(self._execute_turn, work, sources, first, sent.append, leaves_early=False)
        _, report = self._enter(number, turn).result()
        return (stamp_departure(sent[0], report) if sent else None), report

    def begin_rank(self, number: int, work: TurnRequest, sources: Sequence[Source]) -> tuple[SentChunk, int]:
        """Like `begin_turn`, which `end_turn` ends."""
        self._is_ready.wait()
        return self._begin(number, work, sources, [_wait_or_fail(source) for source in sources])

    def _join(self, host: str, port: int) -> None:
        if self._shard.world_size == 1:
            return
        meeting = self._meeting or find_store(host, port, timeout_seconds=self._step_seconds)
        self._ranks = RankGroup(meeting, self._shard, timeout_seconds=self._step_seconds)

    def _enter(self, number: int, turn: Callable[[], T]) -> "Future[T]":
        waiting = _Waiting(turn, Future())
        with self._arrived:
            self._waiting[number] = waiting
            self._arrived.notify_all()
        self._engine.submit(self._step)  # one for each turn that arrives, though perhaps not for this one
        return waiting.done

    def _step(self) -> None:
        try:
            number = self._choose()
        except ShardError:
            number = self._oldest()  # it will fail in the same way, and tell those who wait for it
        with self._arrived:
            waiting = self._waiting.pop(number)
        try:
            waiting.done.set_result(waiting.turn())
        except BaseException as error:  # noqa: BLE001  another thread waits for it, whatever it is
            waiting.done.set_exception(error)

    def _choose(self) -> int:
        """The turn that all ranks begin now: the one that has waited longest at rank 0."""
        number = int(self._ranks.broadcast(torch.tensor([self._oldest()])))
        with self._arrived:
            if not self._arrived.wait_for(lambda: number in self._waiting, self._step_seconds):
                self._ranks.abort()
                raise ShardError(f"{self._shard} was never given turn {number}")
        return number

    def _oldest(self) -> int:
        with self._arrived:
            return next(iter(self._waiting))

    def _deliveries(self, work: TurnRequest, later: Sequence[Source], first: Sequence[Any]) -> list[IncomingSegment]:
        with self._ranks.all_or_none():
            return [
                IncomingSegment(
                    name, _parcel(one), [partial(source.wait, part) for part in range(1, len(source.chunks))]
                )
                for name, source, one in zip(work.segment_order(), later, first, strict=True)
            ]


def _wait_or_fail(source: Source) -> SentChunk | Exception:
    """The first part of a segment, or why there is none: a turn that fails here begins all the same, on all ranks."""
    try:
        return source.wait(0)
    except Exception as error:  # noqa: BLE001  whatever it is: the other ranks begin, and hear of it there
        return error


def _parcel(one: SentChunk | Exception) -> SentChunk:
    if isinstance(one, Exception):
        raise one
    return one
