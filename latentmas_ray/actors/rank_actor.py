"""The Ray actor of one tensor-parallel rank of a replica.

All ranks of a replica execute the same turns. Rank 0 decides the order, since calls may arrive at each rank in a
different order.
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
from latentmas_ray.actors.execute_turn import Runner, stamp_send_time
from latentmas_ray.actors.receiver import IncomingSegment, SentChunk
from latentmas_ray.actors.replicas.sharded_transport import ShardedTransport, join_chunks
from latentmas_ray.authentication import RunKey
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.errors import ShardError
from latentmas_ray.memory import TPRank
from latentmas_ray.parallel.process_group import STEP_SECONDS, RankGroup, find_store, open_store
from latentmas_ray.parallel.ranks import ALONE, Ranks
from latentmas_ray.transport import Transport

T = TypeVar("T")
# A call waits in its thread for the segments that it reads and for its place in the order; the next one needs a thread.
RANK_GROUPS = {"turns": 32, "ends": 32, "side": 1, "prefetch": 1, "lease": 1}


@dataclass(frozen=True)
class ShardRefs:
    """References to the shards of one segment that hold a rank's heads: `chunks[part][i]` is that of `shards[i]`."""

    shards: tuple[TPRank, ...]
    chunks: tuple[tuple[Any, ...], ...]

    def wait(self, part: int) -> SentChunk:
        """Wait for one part from all shards. Raises like `memory_errors`."""
        with memory_errors():
            return join_chunks(self.shards, ray.get(list(self.chunks[part])))


@dataclass(frozen=True)
class _Waiting:
    turn: Callable[[], Any]
    done: "Future[Any]"


class RankActor(AgentActor):
    """An `AgentActor` that executes every turn together with the other ranks of its replica."""

    def __init__(
        self,
        make_runner: Callable[..., Runner],
        num_threads: int,
        shard: TPRank,
        step_seconds: float = STEP_SECONDS,
        key: RunKey | None = None,
    ) -> None:
        """`make_runner(ranks=…)` loads this rank's shard."""
        super().__init__(lambda: make_runner(ranks=self._ranks), num_threads, key)
        self._shard, self._step_seconds = shard, step_seconds
        self._ranks: Ranks = ALONE
        self._store: Any = None
        self._arrived = threading.Condition()
        self._waiting: dict[int, _Waiting] = {}  # by the turn's number, in order of arrival

    def open_rendezvous(self) -> tuple[str, int]:
        """Open the store where the ranks meet (rank 0 only); return its host and port."""
        host = ray.util.get_node_ip_address()
        self._store = open_store(host, timeout_seconds=self._step_seconds)
        return host, self._store.port

    def load_shard(self, address: tuple[str, int], transport: Transport | None = None) -> Loaded:
        """Join the other ranks and load this rank's shard; then call `use_transport` if a transport is given."""
        self._engine.submit(self._join_group, *address).result()
        return self.load(transport)

    def use_transport(self, transport: Transport) -> None:
        """Use this transport from now on."""
        super().use_transport(ShardedTransport(transport, self._ranks))

    def run_rank(
        self, number: int, work: TurnRequest, reads: Sequence[ShardRefs]
    ) -> tuple[SentChunk | None, TurnResult]:
        """Execute this rank's part of one turn; return its packed segment and its result as two Ray objects."""
        self._is_ready.wait()
        sent: list[SentChunk] = []
        first = [first_chunk_or_error(refs) for refs in reads]
        turn = partial(self._execute_turn, work, reads, first, sent.append, overlaps=False)
        _, result = self._enqueue(number, turn).result()
        return (stamp_send_time(sent[0], result) if sent else None), result

    def begin_rank(self, number: int, work: TurnRequest, reads: Sequence[ShardRefs]) -> tuple[SentChunk, int]:
        """Start a turn like `begin_turn`; `end_turn` returns the rest."""
        self._is_ready.wait()
        return self._begin(number, work, reads, [first_chunk_or_error(refs) for refs in reads])

    def _join_group(self, host: str, port: int) -> None:
        if self._shard.world_size == 1:
            return
        store = self._store or find_store(host, port, timeout_seconds=self._step_seconds)
        self._ranks = RankGroup(store, self._shard, timeout_seconds=self._step_seconds)

    def _enqueue(self, number: int, turn: Callable[[], T]) -> "Future[T]":
        waiting = _Waiting(turn, Future())
        with self._arrived:
            self._waiting[number] = waiting
            self._arrived.notify_all()
        self._engine.submit(self._run_next)  # one step per turn that arrives; it may run another turn
        return waiting.done

    def _run_next(self) -> None:
        try:
            number = self._agree_on_next_turn()
        except ShardError:
            number = self._longest_waiting()  # it fails in the same way, and its callers get the error
        with self._arrived:
            waiting = self._waiting.pop(number)
        try:
            waiting.done.set_result(waiting.turn())
        except BaseException as error:  # noqa: BLE001  another thread waits for any exception
            waiting.done.set_exception(error)

    def _agree_on_next_turn(self) -> int:
        """Return the number of the turn that all ranks run next: the one that has waited longest at rank 0."""
        number = int(self._ranks.broadcast(torch.tensor([self._longest_waiting()])))
        with self._arrived:
            if not self._arrived.wait_for(lambda: number in self._waiting, self._step_seconds):
                self._ranks.abort()
                raise ShardError(f"{self._shard} was never given turn {number}")
        return number

    def _longest_waiting(self) -> int:
        with self._arrived:
            return next(iter(self._waiting))

    def _incoming(self, work: TurnRequest, later: Sequence[ShardRefs], first: Sequence[Any]) -> list[IncomingSegment]:
        with self._ranks.all_or_none():
            return incoming_shards(work, later, first)


def incoming_shards(
    work: TurnRequest, later: Sequence[ShardRefs], first: Sequence[SentChunk | Exception]
) -> list[IncomingSegment]:
    """Return a rank's part of the segments that a turn reads. Raises an error that is in place of a first chunk."""
    return [
        IncomingSegment(
            name,
            _unwrap(chunk),
            [partial(refs.wait, part) for part in range(1, len(refs.chunks))],
            work.read_ids.get(name),
        )
        for name, refs, chunk in zip(work.segment_order(), later, first, strict=True)
    ]


def first_chunk_or_error(refs: ShardRefs) -> SentChunk | Exception:
    """Return the first part of a segment, or the error: a turn that fails here still starts, and fails on all ranks."""
    try:
        return refs.wait(0)
    except Exception as error:  # noqa: BLE001  raised again once all ranks have started
        return error


def _unwrap(chunk: SentChunk | Exception) -> SentChunk:
    if isinstance(chunk, Exception):
        raise chunk
    return chunk
