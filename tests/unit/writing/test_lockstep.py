"""Ranks of a divided engine start, step and drop the same questions: two ranks as threads of this process."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from latentmas_ray.engine.segment_io import InMemorySegments
from latentmas_ray.errors import ActorError, LatentMASError, ShardError, TransferError
from latentmas_ray.memory import TPRank
from latentmas_ray.parallel.ranks import Alone
from latentmas_ray.writing.lockstep import FollowingEngine, LeadingEngine
from latentmas_ray.writing.writer import Writer
from latentmas_ray.writing.written_turn import requests_of
from tests.cases.scripted_engine import SPEC, ScriptedEngine, text_of
from tests.unit.writing.test_writer import request

T = TypeVar("T")
PATIENCE_SECONDS = 60.0


class ThreadRanks(Alone):
    """Two ranks that meet at a barrier."""

    def __init__(self, rank: int, barrier: threading.Barrier, shared: dict[str, Any]) -> None:
        self.shard = TPRank(rank, 2)
        self._barrier, self._shared = barrier, shared

    def _meet(self) -> None:
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError as error:
            raise ShardError("the other rank is gone") from error

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        failure: Exception | None = None
        try:
            yield
        except LatentMASError as error:
            failure = error
        self._shared[str(self.shard.rank)] = failure
        self._meet()
        raised = self._shared["0"] or self._shared["1"]
        self._meet()
        if raised is not None:
            raise raised

    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        if self.shard.rank == 0:
            self._shared["said"] = make()
        self._meet()
        said: T = self._shared["said"]
        self._meet()
        return said

    def abort(self) -> None:
        self._barrier.abort()


class TwoRanks:
    """Rank 0 with a writer, and rank 1; each has a thread that owns its engine."""

    def __init__(self) -> None:
        barrier, shared = threading.Barrier(2, timeout=PATIENCE_SECONDS), {}
        ranks = [ThreadRanks(rank, barrier, shared) for rank in range(2)]
        self.engines = [ScriptedEngine(2, spec=SPEC.of_shard(one.shard)) for one in ranks]
        self.owners = [ThreadPoolExecutor(1) for _ in ranks]
        self.callers = ThreadPoolExecutor(8)
        self.leading = LeadingEngine(self.engines[0], ranks[0])
        self.writer = Writer(self.leading, self.owners[0].submit)
        self.following = FollowingEngine(
            self.engines[1], ranks[1], self.owners[1].submit, wait_seconds=PATIENCE_SECONDS
        )
        self.receiver = Writer(self.engines[1], self.owners[1].submit)

    def write(self, number: int, *prompts: str, error: Exception | None = None) -> Any:
        """A turn as both actors get it; rank 1 has `error` in place of its memory."""
        work = request(*prompts)
        outcome = error or self.receiver.receive(work, InMemorySegments({}))
        over = self.following.add(number, requests_of(number, work, outcome))

        def lead() -> Any:
            result = self.writer.start(number, self.writer.receive(work, InMemorySegments({}))).result()
            self.owners[0].submit(self.leading.release, number).result()
            over.result(PATIENCE_SECONDS)
            return result

        return self.callers.submit(lead)

    def close(self) -> None:
        for pool in (*self.owners, self.callers):
            pool.shutdown()


@pytest.fixture
def two() -> Iterator[TwoRanks]:
    ranks = TwoRanks()
    yield ranks
    ranks.close()


def test_both_ranks_start_the_same_questions_in_the_same_steps(two: TwoRanks) -> None:
    turns = [two.write(number, f"write {number + 1}", "write 3") for number in range(6)]
    texts = [turn.result(PATIENCE_SECONDS).texts for turn in turns]
    assert texts == [(text_of(f"write {number + 1}", number + 1), text_of("write 3", 3)) for number in range(6)]
    assert two.engines[0].started == two.engines[1].started
    assert two.engines[0].num_running == two.engines[1].num_running
    assert two.following._requests == {}


def test_what_fails_on_one_rank_fails_on_all_and_alone(two: TwoRanks) -> None:
    turns = [
        two.write(0, "write 3 refuse1", "write 2"),
        two.write(1, "write 3 refuse0"),
        two.write(2, "write 4", error=TransferError("its bytes did not come")),
    ]
    refused, other, lost = [turn.result(PATIENCE_SECONDS) for turn in turns]
    assert refused.failed == {"q0": "this memory cannot be read"}
    assert refused.texts[1] == text_of("write 2", 2)
    assert other.failed == {"q0": "this memory cannot be read"}
    assert lost.failed == {"q0": "its bytes did not come"}
    assert all(engine._running == {} for engine in two.engines)


def test_a_cancelled_question_leaves_all_ranks(two: TwoRanks) -> None:
    turn = two.write(0, "write 19 sleep 0.02", "write 2")
    two.writer.cancel(0, {"q0"})
    assert turn.result(PATIENCE_SECONDS).texts[1] == text_of("write 2", 2)
    assert all(engine._running == {} for engine in two.engines)


def test_a_rank_that_leaves_ends_the_engine(two: TwoRanks) -> None:
    two.leading._ranks.abort()
    turn = two.write(0, "write 2")
    with pytest.raises(ActorError, match="the other rank is gone"):
        turn.result(PATIENCE_SECONDS)
    with pytest.raises(ActorError):
        two.following.add(1, {}).result(PATIENCE_SECONDS)
    assert two.following._requests == {}
