"""The Ray actor of one tensor-parallel rank of a replica whose agents all write text."""

from collections.abc import Callable, Sequence

import torch

from latentmas_ray.actors.agent_actor import AgentActor
from latentmas_ray.actors.given_memory import fetch_given_memory
from latentmas_ray.actors.rank_actor import RankActor, ShardRefs, first_chunk_or_error, incoming_shards
from latentmas_ray.actors.replicas.sharded_transport import ShardedTransport
from latentmas_ray.actors.text.event_queue import EventQueue
from latentmas_ray.actors.text.text_actor import TextActor
from latentmas_ray.actors.text.write_turn import receive_turn
from latentmas_ray.authentication import RunKey
from latentmas_ray.engine.turn import TurnRequest, TurnResult
from latentmas_ray.errors import TurnError
from latentmas_ray.memory import TPRank
from latentmas_ray.parallel.process_group import STEP_SECONDS
from latentmas_ray.parallel.ranks import ALONE, Ranks
from latentmas_ray.transport import Transport
from latentmas_ray.writing.lockstep import FollowingEngine, LeadingEngine
from latentmas_ray.writing.text_runner import TextRunner
from latentmas_ray.writing.writer import Writer
from latentmas_ray.writing.written_turn import ReceivedTurn, requests_of


class TextRankActor(TextActor, RankActor):
    """A `TextActor` that writes every question together with the other ranks. Rank 0 has the writer and says what the
    others do; each receives its own part of the memory."""

    def __init__(
        self,
        make_runner: Callable[..., TextRunner],
        num_threads: int,
        shard: TPRank,
        step_seconds: float = STEP_SECONDS,
        key: RunKey | None = None,
        *,
        question_seconds: float | None = None,
    ) -> None:
        """`make_runner(ranks=…)` loads this rank's part; `question_seconds` is the limit for one question."""

        def load(ranks: Ranks) -> TextRunner:
            return self._set_up(make_runner(ranks=ranks))

        RankActor.__init__(self, load, num_threads, shard, step_seconds, key)
        self._question_seconds = question_seconds
        self._events = EventQueue()
        self._writer: Writer | None = None
        self._cuda_device: int | None = None
        self._leading: LeadingEngine | None = None
        self._following: FollowingEngine | None = None

    def use_transport(self, transport: Transport) -> None:
        """Use this transport from now on. Each rank receives by itself; an error is told when a question starts."""
        AgentActor.use_transport(self, ShardedTransport(transport, ALONE))

    def write_rank(self, number: int, work: TurnRequest, reads: Sequence[ShardRefs]) -> TurnResult:
        """Write one turn; return its result when it is over. That of other ranks than 0 has only their transfers."""
        self._is_ready.wait()
        assert self._writer is not None, "load() comes first"
        if self._cuda_device is not None:
            torch.cuda.set_device(self._cuda_device)
        if self._leading is not None:
            return self._lead(self._leading, number, work, reads)
        assert self._following is not None
        outcome: ReceivedTurn | Exception
        try:
            outcome = self._receive(work, reads)
        except Exception as error:  # noqa: BLE001  raised on all ranks when a question is to start
            outcome = error
        self._following.add(number, requests_of(number, work, outcome)).result()
        transfers = () if isinstance(outcome, Exception) else outcome.reads
        return TurnResult(agent=work.agent, prompt_tokens=(), reads=transfers)

    def _lead(self, engine: LeadingEngine, number: int, work: TurnRequest, reads: Sequence[ShardRefs]) -> TurnResult:
        assert self._writer is not None
        try:
            if work.traced:
                raise TurnError(f"agent {work.agent}: hidden states are not available on this engine")
            return self._writer.start(number, self._receive(work, reads)).result()
        finally:
            if not self._writer.is_dead:  # else the other ranks are not asked any more
                self._engine.submit(engine.release, number).result()

    def _receive(self, work: TurnRequest, reads: Sequence[ShardRefs]) -> ReceivedTurn:
        assert self._writer is not None
        first = [first_chunk_or_error(refs) for refs in reads]
        incoming, work = incoming_shards(work, reads, first), fetch_given_memory(work)
        return receive_turn(self._writer, self._transport, work, incoming)

    def _make_writer(self, runner: TextRunner) -> Writer:
        engine = runner.engine
        if self._shard.rank == 0:
            engine = self._leading = LeadingEngine(engine, self._ranks)
        else:
            self._following = FollowingEngine(engine, self._ranks, self._engine.submit, wait_seconds=self._step_seconds)
        return Writer(engine, self._engine.submit, question_seconds=self._question_seconds, on_event=self._events.put)
