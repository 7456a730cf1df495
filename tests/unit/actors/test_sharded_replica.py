"""A replica of several ranks returns one result per turn and waits a bounded time for its ranks; no Ray, no actors."""

from collections.abc import Sequence
from typing import Any

import pytest
import ray

from latentmas_ray.actors.replicas import sharded as sharded
from latentmas_ray.actors.replicas.replica import Turn
from latentmas_ray.actors.replicas.sharded import ShardedReplica, merge_results
from latentmas_ray.engine.turn import Link, Phases, SegmentRead, TurnResult
from latentmas_ray.errors import ActorError

RESULTS = ("of rank 0", "of rank 1")


class WithoutActors(ShardedReplica):
    """A sharded replica whose actors do not exist."""

    def shut_down(self) -> None:
        pass


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_rank_that_does_not_end_its_turn_loses_the_replica(is_lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[float | None] = []

    def wait(references: Sequence[Any], *, num_returns: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
        timeouts.append(timeout)
        ready = [reference for reference in references if reference == RESULTS[0]]
        return ready, [reference for reference in references if reference not in ready]

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda _: TurnResult(agent="planner", prompt_tokens=(3,)))
    group = WithoutActors([None, None], ["a", "a"])
    if is_lost:
        group.mark_dead("its node is silent")
    with pytest.raises(ActorError, match="rank 1 of 2 did not end a turn that others have ended"):
        group.result(Turn(1, 0.0, RESULTS, {}))  # type: ignore[arg-type]
    longest = 5.0 if is_lost else sharded.SKEW_SECONDS
    assert all(timeout is not None and timeout <= longest for timeout in timeouts)


def result(rank: int, link: Link = "same_node") -> TurnResult:
    read = SegmentRead(
        source="planner",
        num_bytes=100 + rank,
        transport="gloo",
        seconds=1.0 + rank,
        exposed_seconds=0.5 - rank / 10,
        relative_error=0.01 * rank,
        link=link,
        moved_bytes=50 * rank,
    )
    return TurnResult(
        agent="critic",
        prompt_tokens=(3, 4),
        latent_steps=2,
        phases=Phases(think=1.0 + rank),
        segment_bytes=(10, 20 + rank),
        memory_tokens=(5, 6),
        reads=(read,),
    )


def test_bytes_are_of_all_ranks_and_times_of_the_slowest() -> None:
    merged = merge_results([result(0), result(1, "cross_node")])
    assert merged.segment_bytes == (20, 41)
    assert (merged.prompt_tokens, merged.latent_steps, merged.memory_tokens) == ((3, 4), 2, (5, 6))
    assert merged.phases == Phases(think=1.0)
    [read] = merged.reads
    assert (read.num_bytes, read.moved_bytes) == (201, 50)
    assert (read.seconds, read.exposed_seconds, read.relative_error) == (2.0, 0.5, 0.01)
    assert (read.link, read.transport) == ("cross_node", "gloo")


def test_the_result_of_one_rank_is_unchanged() -> None:
    assert merge_results([result(0)]) == result(0)


def test_an_agent_that_reads_nothing_and_writes_nothing() -> None:
    plain = TurnResult(agent="last", prompt_tokens=(1,), texts=("yes",))
    assert merge_results([plain, plain]) == plain
