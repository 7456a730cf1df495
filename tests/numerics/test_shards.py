"""A model divided over ranks computes what the whole model computes, and its memory is the whole model's."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config

from latentmas_ray.actors.replicas.sharded import merge_results
from latentmas_ray.config import GuardName, KeepBy
from latentmas_ray.engine.session import Session
from latentmas_ray.engine.turn import KeepRule, SentAs
from latentmas_ray.errors import ModelError, ShardError, TransferError
from latentmas_ray.memory import join
from latentmas_ray.memory.wire import decode_chunk
from latentmas_ray.models.devices import check_divisible, check_shard_device
from latentmas_ray.parallel.process_group import RankGroup, open_store
from latentmas_ray.parallel.ranks import ALONE, Ranks
from tests.numerics import shard_cases
from tests.numerics.broken_model import save_broken_model
from tests.numerics.families import make_lm
from tests.numerics.processes import HOST, RankProcesses
from tests.numerics.shard_cases import Arriving, SegmentSender, compute, hand_over, join_heads, load, taken, work
from tests.numerics.turns import assert_close

STEP_SECONDS = 5.0
OF_POSITIONS = ["gemma3-window", "gemma2", "glm4", "cohere2", "smollm3", "llama4"]

MakeFolder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """`folder_of(family)`: a folder with a model, as `--model` takes it."""

    def make(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        lm = make_lm(family)
        lm.model.save_pretrained(folder / "model")
        lm.chat.tokenizer.save_pretrained(folder / "model")
        return folder

    return make


@pytest.fixture(scope="module")
def two() -> Iterator[RankProcesses]:
    if (accelerator := torch.accelerator.current_accelerator()) is not None:
        pytest.skip(f"this torch was built for {accelerator.type}: transformers divides no model over CPUs with it")
    processes = RankProcesses(2)
    yield processes
    processes.end()


@pytest.mark.parametrize("family", ["qwen3", "qwen3-tied", "llama", "qwen2", "neox", *OF_POSITIONS])
def test_ranks_compute_what_the_whole_model_computes(family: str, folder_of: MakeFolder, two: RankProcesses) -> None:
    folder = folder_of(family)
    whole = compute(ALONE, folder)
    parts = two.run(compute, folder)
    assert_close(join_heads([part.kv_LCHTD for part in parts]), whole.kv_LCHTD)
    for part in parts:
        assert_close(part.logits, whole.logits)
        assert (part.greedy, part.sampled, part.revision) == (whole.greedy, whole.sampled, whole.revision)
        assert (part.matrix_EE is None) == (whole.matrix_EE is None)
        if part.matrix_EE is not None:
            assert_close(part.matrix_EE, whole.matrix_EE)
            assert torch.equal(part.matrix_EE, parts[0].matrix_EE)
        assert torch.equal(part.logits, parts[0].logits)


@pytest.mark.parametrize("family", ["qwen3", "qwen3-tied"])
def test_ranks_see_the_thoughts_that_the_whole_model_sees(
    family: str, folder_of: MakeFolder, two: RankProcesses
) -> None:
    folder = folder_of(family)
    thought, answered = shard_cases.trace(ALONE, folder)
    for part_thought, part_answered in two.run(shard_cases.trace, folder):
        whole, part = thought.traces["q1"], part_thought.traces["q1"]
        assert part.prompt == whole.prompt
        for seen, expected in zip(part.thoughts, whole.thoughts, strict=True):
            assert seen.entropy == pytest.approx(expected.entropy, abs=1e-3)
            assert seen.norm == pytest.approx(expected.norm, rel=1e-3)
            assert seen.distance == pytest.approx(expected.distance, abs=1e-3)
            assert seen.xy == pytest.approx(expected.xy, abs=1e-2)
        assert part_answered.output_token_ids == answered.output_token_ids
        effect, expected_effect = (one.traces["q1"].effects["a"] for one in (part_answered, answered))
        assert effect == pytest.approx(expected_effect, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize("thoughts", ["soft:top_k=5", "blend", "noise"])
@pytest.mark.parametrize("family", ["qwen3", "qwen3-tied"])
def test_ranks_feed_the_thoughts_that_the_whole_model_feeds(
    family: str, thoughts: str, folder_of: MakeFolder, two: RankProcesses
) -> None:
    folder = folder_of(family)
    whole_NE = shard_cases.fed_thoughts(ALONE, folder, thoughts)
    first_NE, second_NE = two.run(shard_cases.fed_thoughts, folder, thoughts)
    assert torch.equal(first_NE, second_NE)
    assert_close(first_NE, whole_NE)


@pytest.mark.parametrize("policy", ["drop", "text"])
def test_ranks_come_to_one_verdict(policy: GuardName, tmp_path: Path, two: RankProcesses) -> None:
    save_broken_model(tmp_path / "model")
    thought, answered = shard_cases.guard(ALONE, tmp_path, policy)
    assert bool(thought.fallbacks) == (policy == "text")
    for part_thought, part_answered in two.run(shard_cases.guard, tmp_path, policy):
        assert part_thought.alarms == thought.alarms
        assert part_thought.fallbacks == thought.fallbacks
        assert part_answered.output_token_ids == answered.output_token_ids


@pytest.mark.parametrize("fills_steps", [False, True])
def test_ranks_stop_thinking_at_the_same_step(fills_steps: bool, folder_of: MakeFolder, two: RankProcesses) -> None:
    folder = folder_of("llama")
    thought, answered = shard_cases.stop_thinking(ALONE, folder, fills_steps)
    steps = [one.steps for one in thought.convergence]
    assert min(steps) < 24
    for part_thought, part_answered in two.run(shard_cases.stop_thinking, folder, fills_steps):
        assert [one.steps for one in part_thought.convergence] == steps
        assert part_thought.memory_tokens == thought.memory_tokens
        assert part_answered.output_token_ids == answered.output_token_ids


@pytest.mark.parametrize("by", ["prompt", "reader"])
def test_ranks_keep_the_same_positions(by: KeepBy, folder_of: MakeFolder, two: RankProcesses) -> None:
    """The heads of each rank alone would choose others: their mass is added up."""
    folder, rule = folder_of("qwen3"), KeepRule(share=0.25, by=by, readers=(work("b", ["a"]).prompts,))
    sent, thought, answered = shard_cases.evict(ALONE, folder, rule)
    parts = two.run(shard_cases.evict, folder, rule)
    segments = [join([decode_chunk(*wire) for wire in wires]) for wires in (sent, *(part[0] for part in parts))]
    assert all(segment.meta.kept == segments[0].meta.kept is not None for segment in segments)
    assert_close(join_heads([segment.kv_LCHTD for segment in segments[1:]]), segments[0].kv_LCHTD)
    assert all(part[2].output_token_ids == answered.output_token_ids for part in parts)
    merged = merge_results([part[1] for part in parts])
    assert merged.segment_bytes == thought.segment_bytes
    assert merged.evicted_bytes == thought.evicted_bytes


@pytest.mark.parametrize("transfer_mode", ["kv", "recompute"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_memory_goes_from_ranks_to_ranks(
    family: str, transfer_mode: SentAs, folder_of: MakeFolder, two: RankProcesses
) -> None:
    folder = folder_of(family)
    sent, thought, answered = hand_over(ALONE, folder, transfer_mode)
    parts = two.run(hand_over, folder, transfer_mode)
    for _, _, report in parts:
        assert report.output_token_ids == answered.output_token_ids
        assert report.memory_tokens == answered.memory_tokens
    if transfer_mode == "kv":
        segments = [join([decode_chunk(*wire) for wire in wires]) for wires in (sent, *(part[0] for part in parts))]
        assert_close(join_heads([segment.kv_LCHTD for segment in segments[1:]]), segments[0].kv_LCHTD)
        assert [sum(pair) for pair in zip(*(part[1].segment_bytes for part in parts), strict=True)] == list(
            thought.segment_bytes
        )

    # From two ranks to one reader.
    runner = load(folder)
    chunks = taken(runner, [part[0] for part in parts])
    _, report = runner.run(work("b", ["a"], comes_as=transfer_mode), Arriving({"a": chunks}))
    assert report.output_token_ids == answered.output_token_ids

    # From one to two.
    for report in two.run(shard_cases.answer, folder, [sent], transfer_mode):
        assert report.output_token_ids == answered.output_token_ids


def _stalls(ranks: Ranks, folder: Path) -> tuple[str, float]:
    runner = load(folder, ranks)
    begin = time.monotonic()
    if ranks.shard.rank == 1:
        time.sleep(3 * STEP_SECONDS)
    return _fails(runner, begin)


def _work_on(session: Session) -> None:
    session.prefill([[5, 6, 7]])
    session.think(500)


def _fails(runner: Any, begin: float) -> tuple[str, float]:
    session = runner.engine.open(["q0"], num_slots=1024)
    with pytest.raises(ShardError) as raised:
        _work_on(session)
    seconds = time.monotonic() - begin
    with pytest.raises(ShardError):  # at once: there is nobody to wait for
        session.prefill([[5]])
    assert time.monotonic() - begin < seconds + STEP_SECONDS / 2
    return str(raised.value), seconds


@pytest.mark.slow  # it waits; `test_what_fails_on_one_rank_fails_on_all` has the other failures
def test_a_rank_that_stalls_is_not_waited_for_longer_than_agreed(folder_of: MakeFolder, two: RankProcesses) -> None:
    folder = folder_of("qwen3")
    (told, seconds), (late, _) = two.run(_stalls, folder, step_seconds=STEP_SECONDS)
    assert "rank 0 of 2 cannot continue" in told
    assert seconds < 2.5 * STEP_SECONDS
    assert "rank 1 of 2 cannot continue" in late


def _loses_memory(ranks: Ranks, folder: Path) -> tuple[str, list[tuple[int, ...]], str]:
    """What only one rank lacks fails on both, and both can go on; a fault of the program ends the group."""
    runner = load(folder, ranks)
    outbox = SegmentSender()
    runner.run(work("a"), {}, outgoing=outbox)
    chunks = [decode_chunk(*wire, expected=runner.spec) for wire in outbox.sent]
    with pytest.raises(TransferError) as lost:
        runner.run(work("b", ["a"]), Arriving({"a": chunks}, is_lost=ranks.shard.rank == 1))
    _, report = runner.run(work("b", ["a"]), Arriving({"a": chunks}))
    if ranks.shard.rank == 1:
        runner.engine.lm.chat.encode = None  # type: ignore[method-assign,assignment]  # a fault that nobody foresaw
    with pytest.raises((ShardError, TypeError)) as ended:
        runner.run(work("a"), {}, outgoing=SegmentSender())
    return str(lost.value), list(report.output_token_ids), type(ended.value).__name__


def test_what_fails_on_one_rank_fails_on_all(folder_of: MakeFolder, two: RankProcesses) -> None:
    folder = folder_of("qwen3")
    _, _, answered = hand_over(ALONE, folder, "kv")
    first, second = two.run(_loses_memory, folder, step_seconds=8.0)
    assert first[0] == second[0] == "the second parcel is gone"
    assert first[1] == second[1] == list(answered.output_token_ids)
    assert (first[2], second[2]) == ("ShardError", "TypeError")


def _is_refused(ranks: Ranks, folder: Path) -> str:
    with pytest.raises(ModelError) as refused:
        load(folder, ranks)
    return str(refused.value)


def test_a_model_that_cannot_be_divided_is_refused_on_all_ranks(folder_of: MakeFolder, two: RankProcesses) -> None:
    folder = folder_of("gemma3")
    for told in two.run(_is_refused, folder):
        assert told.endswith("has 4 attention heads and 1 KV heads, so it must be 1")


@pytest.mark.parametrize(
    ("change", "num_ranks", "expected"),
    [
        ({"num_attention_heads": 40, "num_key_value_heads": 8}, 3, "it must be 1, 2, 4 or 8"),
        ({"num_attention_heads": 40, "num_key_value_heads": 8}, 16, "it must be 1, 2, 4 or 8"),
        ({"num_attention_heads": 9, "num_key_value_heads": 3}, 2, "it must be 1 or 3"),
        ({"num_attention_heads": 7, "num_key_value_heads": 1}, 7, "it must be 1"),
    ],
    ids=str,
)
def test_heads_must_be_divisible(change: dict[str, int], num_ranks: int, expected: str) -> None:
    with pytest.raises(ModelError, match="KV heads") as refused:
        check_divisible(Qwen3Config(**change), "my-model", num_ranks)
    assert str(refused.value).startswith(f"tp: got '{num_ranks}'; my-model has")
    assert str(refused.value).endswith(expected)
    check_divisible(Qwen3Config(**change), "my-model", 1)


def test_a_model_without_a_plan_is_refused() -> None:
    config = Qwen3Config()
    config.base_model_tp_plan = None
    with pytest.raises(ModelError, match="must be 1: transformers has no tensor-parallel plan for my-model"):
        check_divisible(config, "my-model", 2)


def test_only_the_first_gpu_of_a_process_takes_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    check_shard_device(torch.device("cuda"), "cuda", 2)
    check_shard_device(torch.device("cuda:0"), "cuda:0", 2)
    with pytest.raises(ModelError, match="first GPU"):
        check_shard_device(torch.device("cuda:1"), "cuda:1", 2)
    with pytest.raises(ModelError, match="must be auto or cuda"):
        check_shard_device(torch.device("cpu"), "cpu", 2)


def test_one_process_is_in_one_replica_at_a_time(two: RankProcesses) -> None:
    assert two.run(_joins_twice) == ["this process is a rank of another replica already"] * 2


def _joins_twice(ranks: Ranks) -> str:
    with pytest.raises(ShardError) as refused:
        RankGroup(open_store(HOST), ranks.shard)
    return str(refused.value)


def _dies(ranks: Ranks, folder: Path) -> tuple[str, float]:
    runner = load(folder, ranks)
    begin = time.monotonic()
    if ranks.shard.rank == 1:
        session = runner.engine.open(["q0"], num_slots=64)
        session.prefill([[5, 6, 7]])
        session.think(2)
        os._exit(1)
    return _fails(runner, begin)


def test_a_rank_that_dies_ends_the_others_steps(folder_of: MakeFolder, two: RankProcesses) -> None:
    folder = folder_of("qwen3")
    (told, seconds), dead = two.run(_dies, folder, step_seconds=30.0)
    assert dead is None
    assert "rank 0 of 2 cannot continue" in told
    assert seconds < 15, "a closed connection is seen at once"
