"""What every rank of a divided model does in the tests of `test_shards.py`, and the whole model beside it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from latentmas_ray.config import GuardName
from latentmas_ray.engine.load import load_runner
from latentmas_ray.engine.runner import TurnRunner
from latentmas_ray.engine.turn import Prompt, Sampling, SentAs, TurnRequest, TurnResult
from latentmas_ray.errors import TransferError
from latentmas_ray.memory import Segment, SegmentChunk, SegmentMeta, join
from latentmas_ray.memory.buffers import empty_bytes
from latentmas_ray.memory.reslice import reslice, sources_of
from latentmas_ray.memory.wire import decode_chunk, encode_chunk
from latentmas_ray.parallel.ranks import ALONE, Ranks
from latentmas_ray.topology.agent import AgentMemory
from tests.numerics.turns import begin, logits_of, place_chain, prompts_of

PROMPTS = {"a": prompts_of([9, 2, 21], 1), "b": prompts_of([4, 15, 1], 2), "c": prompts_of([5, 3, 8], 3)}
TEXTS = ("One plus one?", "A much longer question, so that the rows of this batch are ragged.", "Why?")
NUM_STEPS = 3
SAMPLED = Sampling(temperature=0.9, top_p=0.9, max_new_tokens=10)
GREEDY = Sampling(max_new_tokens=10)

Wire = tuple[bytes, Tensor]  # header and body of one chunk


@dataclass
class SegmentSender:
    """Pieces as they would travel, the first while its agent still thinks."""

    sent: list[Wire] = field(default_factory=list)
    overlaps: bool = True

    def reserve(self, num_bytes: int, device: torch.device) -> Tensor:
        return empty_bytes(num_bytes, device)

    def publish(self, final_at: float, chunk: SegmentChunk) -> None:
        header, body = encode_chunk(chunk)
        self.sent.append((header, body.clone()))


class Arriving:
    """Segments of which the first chunk is here and the others come when they are asked for."""

    def __init__(self, chunks: Mapping[str, Sequence[SegmentChunk]], *, is_lost: bool = False) -> None:
        self._chunks, self._is_lost = chunks, is_lost

    def segments(self) -> dict[str, Segment | SegmentMeta]:
        return {agent: chunks[0].meta for agent, chunks in self._chunks.items()}

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        for agent in self._chunks:
            for chunk in self.chunks_of(agent):
                yield agent, chunk

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        yield self._chunks[agent][0]
        if self._is_lost:
            raise TransferError("the second parcel is gone")
        yield from self._chunks[agent][1:]


@dataclass(frozen=True)
class Numbers:
    """What one rank, or the whole model, has computed."""

    kv_LCHTD: Tensor  # of two agents, one after another
    logits: Tensor  # of the third, which reads both
    greedy: list[list[int]]
    sampled: list[list[int]]
    matrix_EE: Tensor | None
    revision: str


def load(folder: Path, ranks: Ranks = ALONE, *, device: str = "cpu") -> TurnRunner:
    cache = folder / f"realign-of-{ranks.shard.world_size}"  # a degree must not profit from another's
    model = str(folder / "model")
    return load_runner(model, dtype="float32", device=device, realign=True, cache_dir=cache, ranks=ranks)


def compute(ranks: Ranks, folder: Path, device: str = "cpu") -> Numbers:
    """Two agents think, a third reads both; then it answers, greedily and not."""
    torch.backends.cuda.matmul.allow_tf32 = False  # its products are no fp32
    runner = load(folder, ranks, device=device)
    engine = runner.engine
    segments: dict[str, Segment] = {}
    for agent in ("a", "b"):
        session = begin(engine, PROMPTS[agent], place_chain(segments) if segments else None)
        session.think(NUM_STEPS)
        segments[agent] = session.emit()
    kv_LCHTD = torch.cat([segment.kv_LCHTD for segment in segments.values()], dim=3)
    session = begin(engine, PROMPTS["c"], place_chain(segments))
    logits = logits_of(session).clone()
    greedy = session.decode(GREEDY, "c")
    sampled = begin(engine, PROMPTS["c"], place_chain(segments)).decode(SAMPLED, "c")
    matrix_EE = session.realign.matrix_EE
    matrix_EE = None if matrix_EE is None else matrix_EE.cpu()
    return Numbers(kv_LCHTD.cpu(), logits.cpu(), greedy, sampled, matrix_EE, runner.spec.weights_revision)


def work(
    agent: str, reads: Sequence[str] = (), *, transfer_mode: SentAs = "kv", comes_as: SentAs = "kv"
) -> TurnRequest:
    """A latent turn, or with `reads` the answering one."""
    return TurnRequest(
        agent=agent,
        batch=0,
        question_ids=("q0", "q1", "q2"),
        prompts=tuple(Prompt(messages=({"role": "user", "content": text},)) for text in TEXTS),
        thinks="text" if reads else "latent",
        sampling=GREEDY,
        latent_steps=NUM_STEPS,
        transfer_mode=transfer_mode,
        reads=tuple(AgentMemory(name) for name in reads),
        recomputed=frozenset(reads) if comes_as == "recompute" else frozenset(),
    )


def think(ranks: Ranks, folder: Path, transfer_mode: SentAs) -> tuple[list[Wire], TurnResult]:
    """A latent turn in two chunks."""
    outbox = SegmentSender()
    _, report = load(folder, ranks).run(work("a", transfer_mode=transfer_mode), {}, outgoing=outbox)
    return outbox.sent, report


def answer(ranks: Ranks, folder: Path, sources: Sequence[list[Wire]], transfer_mode: SentAs) -> TurnResult:
    """The answering turn on memory that came from all shards in `sources`: rank r takes what it needs."""
    runner = load(folder, ranks)
    chunks = taken(runner, sources)
    _, report = runner.run(work("b", ["a"], comes_as=transfer_mode), Arriving({"a": chunks}))
    return report


def hand_over(ranks: Ranks, folder: Path, transfer_mode: SentAs) -> tuple[list[Wire], TurnResult, TurnResult]:
    """A latent turn and an answering one, from each rank to the same rank."""
    runner = load(folder, ranks)
    outbox = SegmentSender()
    _, thought = runner.run(work("a", transfer_mode=transfer_mode), {}, outgoing=outbox)
    chunks = [decode_chunk(header, body, expected=runner.spec) for header, body in outbox.sent]
    _, answered = runner.run(work("b", ["a"], comes_as=transfer_mode), Arriving({"a": chunks}))
    return outbox.sent, thought, answered


def trace(ranks: Ranks, folder: Path) -> tuple[TurnResult, TurnResult]:
    """A latent turn and an answering one, of which one question is traced."""
    runner = load(folder, ranks)
    chunk, thought = runner.run(replace(work("a"), traced=frozenset(["q1"])), {})
    assert chunk is not None
    reader = replace(work("b", ["a"]), traced=frozenset(["q1"]), is_last=True)
    return thought, runner.run(reader, {"a": join([chunk])})[1]


def guard(ranks: Ranks, folder: Path, policy: GuardName) -> tuple[TurnResult, TurnResult]:
    """A latent turn under a guard, and an answering one that reads what is left of it."""
    runner = load(folder, ranks)
    chunk, thought = runner.run(replace(work("a"), guard=policy), {})
    assert chunk is not None
    return thought, runner.run(work("b", ["a"]), {"a": join([chunk])})[1]


def stop_thinking(ranks: Ranks, folder: Path, fills_steps: bool) -> tuple[TurnResult, TurnResult]:
    """A latent turn whose questions stop when their thoughts have converged, and an answering one."""
    runner = load(folder, ranks)
    stops = {"latent_steps": 24, "stop_at": 0.997, "fills_steps": fills_steps}
    chunk, thought = runner.run(replace(work("a"), **stops), {})
    assert chunk is not None
    return thought, runner.run(work("b", ["a"]), {"a": join([chunk])})[1]


def taken(runner: TurnRunner, sources: Sequence[list[Wire]]) -> list[SegmentChunk]:
    """The chunks of one segment, of which `sources[s]` are those of source rank s, for this rank."""
    spec = runner.spec
    ranks = sources_of(spec.num_model_kv_heads, len(sources), spec.shard)
    return [reslice([decode_chunk(*sources[rank][part]) for rank in ranks], spec) for part in range(len(sources[0]))]


def join_heads(parts: Sequence[Tensor]) -> Tensor:
    """KV of all ranks as the whole model's."""
    return torch.cat(list(parts), dim=2)
