"""A replica of several actors, one for each rank: one turn, one report, one failure."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import ray

from latentmas_ray.actors.rank_actor import RANK_GROUPS, RankActor
from latentmas_ray.actors.replicas.replica import SegmentRef, Turn
from latentmas_ray.actors.replicas.sharded import ShardedReplica
from latentmas_ray.authentication import RunKey
from latentmas_ray.engine.load import load_runner
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import Prompt, Sampling, SentAs, TurnRequest, TurnResult
from latentmas_ray.errors import ActorError, TurnError, TurnLostError
from latentmas_ray.memory import Segment, TPRank, join
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.transport import ObjectStore, Transport, make_transport
from tests.ray import stand_ins
from tests.ray.actor_cases import PATIENCE_SECONDS

pytestmark = pytest.mark.slow  # two ranks in a run: `test_calls.py`; their numerics: `tests/numerics/test_shards.py`

TEXTS = ("One plus one?", "A much longer question, so that the rows of this batch are ragged.", "Why?")
STEP_SECONDS = 60.0
KEY = RunKey(b"k" * 32)

load_tiny = partial(load_runner, "tiny", dtype="float32", device="cpu", thoughts="realign")


def group_of(num_ranks: int, make_runner: Callable[..., Any] = load_tiny) -> ShardedReplica:
    """A replica that has loaded its model."""
    remote = ray.remote(num_cpus=0.01, allow_out_of_order_execution=True, concurrency_groups=RANK_GROUPS)(RankActor)
    actors = [remote.remote(make_runner, 1, TPRank(rank, num_ranks), STEP_SECONDS, KEY) for rank in range(num_ranks)]
    group = ShardedReplica(actors, [""] * num_ranks)
    group.accept(ray.get(group.start(), timeout=PATIENCE_SECONDS))
    use([group], ObjectStore())
    return group


def use(groups: Sequence[ShardedReplica], transport: Transport) -> None:
    """Have memory of these groups travel this way from now on."""
    ray.get([reference for group in groups for reference in group.use_transport(transport)], timeout=PATIENCE_SECONDS)


def work(agent: str, *reads: str, batch: int = 0, transfer_mode: SentAs = "kv") -> TurnRequest:
    """A latent turn; that of `last` answers."""
    return TurnRequest(
        agent=agent,
        batch=batch,
        question_ids=("q0", "q1", "q2"),
        prompts=tuple(Prompt(messages=({"role": "user", "content": f"{agent} {text}"},)) for text in TEXTS),
        thinks="text" if agent == "last" else "latent",
        sampling=Sampling(temperature=0.7, max_new_tokens=8),
        latent_steps=3,
        transfer_mode=transfer_mode,
        reads=tuple(AgentMemory(name) for name in reads),
        recomputed=frozenset(reads) if transfer_mode == "recompute" else frozenset(),
    )


def submit(
    group: ShardedReplica,
    work: TurnRequest,
    read: Mapping[str, SegmentRef],
    *,
    overlap: bool = True,
    transport: Transport | None = None,
) -> tuple[SegmentRef | None, Turn]:
    return group.submit(work, read, transport=transport or ObjectStore(), overlap=overlap)


def report_of(group: ShardedReplica, turn: Turn) -> TurnResult:
    ready, _ = ray.wait(list(turn.results), timeout=PATIENCE_SECONDS)
    assert ready, "no rank finished"
    return group.result(turn)


@pytest.fixture(scope="module")
def alone() -> TurnRunner:
    return load_tiny()


@pytest.fixture(scope="module")
def groups(cluster: None) -> Iterator[tuple[ShardedReplica, ShardedReplica]]:
    """Two ranks, and one."""
    made = (group_of(2), group_of(1))
    yield made
    for group in made:
        group.shut_down()


def expected(runner: TurnRunner, *, agents: Sequence[str] = ("first",)) -> tuple[list[TurnResult], TurnResult]:
    """What the whole model reports in one process."""
    segments: dict[str, Segment] = {}
    reports = []
    for agent in agents:
        piece, report = runner.run(work(agent), {})
        assert piece is not None
        segments[agent] = join([piece])
        assert segments[agent].kv_LCHTD is not None  # before the next turn needs the cache
        reports.append(report)
    return reports, runner.run(work("last", *agents), segments)[1]


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("transfer_mode", ["kv", "recompute"])
def test_two_ranks_hand_over_to_two_and_to_one(
    transfer_mode: SentAs, overlap: bool, groups: tuple[ShardedReplica, ShardedReplica], alone: TurnRunner
) -> None:
    two, one = groups
    [thought], answered = expected(alone)
    segment, turn = submit(two, work("first", transfer_mode=transfer_mode), {}, overlap=overlap)
    assert segment is not None
    read = {"first": segment}
    answers = [
        (group, submit(group, work("last", "first", transfer_mode=transfer_mode), read, overlap=overlap)[1])
        for group in groups
    ]
    report = report_of(two, turn)
    if transfer_mode == "kv":
        assert report.segment_bytes == thought.segment_bytes, "of both ranks together"
    for group, turn in answers:
        report = report_of(group, turn)
        assert report.output_token_ids == answered.output_token_ids
        assert report.memory_tokens == answered.memory_tokens
        assert report.reads[0].link == "same_node"
        if transfer_mode == "kv":
            assert report.reads[0].num_bytes == sum(thought.segment_bytes)
    assert (two.spec, one.spec) == (alone.spec, alone.spec)


def test_one_rank_hands_over_to_two(groups: tuple[ShardedReplica, ShardedReplica], alone: TurnRunner) -> None:
    two, one = groups
    segment, _ = submit(one, work("first"), {})
    assert segment is not None
    _, turn = submit(two, work("last", "first"), {"first": segment})
    assert report_of(two, turn).output_token_ids == expected(alone)[1].output_token_ids


def test_many_turns_at_once_begin_in_the_same_order_everywhere(groups: tuple[ShardedReplica, ShardedReplica]) -> None:
    two, one = groups
    turns: list[tuple[ShardedReplica, Turn]] = []
    for batch in range(5):
        slow, _ = submit(one, work("first", batch=batch), {})
        assert slow is not None
        turns.append((two, submit(two, work("last", "first", batch=batch), {"first": slow})[1]))
        turns.append((two, submit(two, work("first", batch=batch), {})[1]))
    reports = [report_of(group, turn) for group, turn in turns]
    assert len({report.output_token_ids for report in reports}) == 2  # the answer, and no answer


def test_memory_that_only_one_rank_cannot_have_costs_one_turn(groups: tuple[ShardedReplica, ShardedReplica]) -> None:
    two, _ = groups
    segment, _ = submit(two, work("first"), {}, overlap=False)
    assert segment is not None
    [good], _ = segment.chunks
    unmade = ray.remote(num_cpus=0.01)(stand_ins.raise_error).remote()
    for wrong, reason in ((unmade, "did not like"), (ray.put("no chunk"), "payload"), (good, "rank 0 of 2")):
        wrong_segment = replace(segment, chunks=((good,), (wrong,)))
        _, turn = submit(two, work("last", "first"), {"first": wrong_segment})
        with pytest.raises((TurnError, TurnLostError), match=reason):
            report_of(two, turn)
    _, turn = submit(two, work("last", "first"), {"first": segment})
    assert report_of(two, turn).output_token_ids


def test_a_cancelled_turn_is_forgotten(groups: tuple[ShardedReplica, ShardedReplica]) -> None:
    two, _ = groups
    _, turn = submit(two, work("first"), {})
    two.cancel(turn)
    segment, turn = submit(two, work("first"), {})
    assert report_of(two, turn).latent_steps == 3
    assert isinstance(segment, SegmentRef)
    segment.release()


def test_shards_travel_by_groups_of_two_as_well_as_the_group_of_the_ranks(
    groups: tuple[ShardedReplica, ShardedReplica], alone: TurnRunner
) -> None:
    gloo = make_transport("gloo")
    use(groups, gloo)
    try:
        for writer, reader in (groups, groups[::-1]):
            segment, _ = submit(writer, work("first"), {}, transport=gloo)
            assert segment is not None
            _, turn = submit(reader, work("last", "first"), {"first": segment}, transport=gloo)
            assert report_of(reader, turn).output_token_ids == expected(alone)[1].output_token_ids
            segment.release()
    finally:
        use(groups, ObjectStore())


@pytest.mark.parametrize(
    ("deed", "rank", "what"),
    [(stand_ins.die, 1, "died"), (stand_ins.die, 0, "died"), (stand_ins.raise_error, 1, "failed")],
    ids=["1 dies", "0 dies", "1 fails"],
)
def test_a_rank_that_is_lost_loses_the_replica(deed: Callable[[], None], rank: int, what: str, cluster: None) -> None:
    group = group_of(2, partial(stand_ins.Fragile, {rank: deed}))
    try:
        _, turn = submit(group, work("last", batch=1), {})
        assert report_of(group, turn).output_token_ids == ((1,),) * 3
        begin = time.monotonic()
        _, turn = submit(group, work("last", batch=stand_ins.POISON), {})
        with pytest.raises(ActorError, match=f"rank {rank} of 2 {what}"):
            report_of(group, turn)
        assert time.monotonic() - begin < STEP_SECONDS / 2
        group.mark_dead("a rank is gone")
        _, turn = submit(group, work("last"), {})
        with pytest.raises(ActorError, match=r"rank \d of 2"):
            report_of(group, turn)
    finally:
        group.shut_down()
