"""A replica of several ranks waits a bounded time for them; without Ray, and without actors."""

from collections.abc import Sequence
from typing import Any

import pytest
import ray

from latentmas_ray.actors.replicas import sharded as shard_group
from latentmas_ray.actors.replicas.replica import Turn
from latentmas_ray.actors.replicas.sharded import ShardedReplica
from latentmas_ray.engine.turn import TurnResult
from latentmas_ray.errors import ActorError

REPORTS = ("of rank 0", "of rank 1")


class Silent(ShardedReplica):
    """Its actors do not exist."""

    def end(self) -> None:
        pass


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_rank_that_does_not_end_its_turn_loses_the_replica(is_lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    patience: list[float | None] = []

    def wait(references: Sequence[Any], *, num_returns: int, timeout: float | None) -> tuple[list[Any], list[Any]]:
        patience.append(timeout)
        ready = [reference for reference in references if reference == REPORTS[0]]
        return ready, [reference for reference in references if reference not in ready]

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda _: TurnResult(agent="planner", prompt_tokens=(3,)))
    group = Silent([None, None], ["a", "a"])
    if is_lost:
        group.mark_dead("its node is silent")
    with pytest.raises(ActorError, match="rank 1 of 2 did not end a turn that others have ended"):
        group.report(Turn(1, 0.0, REPORTS, {}), shares_node=True)  # type: ignore[arg-type]
    longest = 5.0 if is_lost else shard_group.SKEW_SECONDS
    assert all(timeout is not None and timeout <= longest for timeout in patience)
