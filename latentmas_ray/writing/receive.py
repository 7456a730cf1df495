"""Receives the memory of a text agent's turn: as KV, computed again, or as inputs for an engine that takes those."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from latentmas_ray.engine.segment_io import Incoming, InMemorySegments
from latentmas_ray.engine.turn import TurnRequest
from latentmas_ray.errors import SegmentError
from latentmas_ray.memory import (
    KVCacheSpec,
    RecomputeInputs,
    Segment,
    SegmentChunk,
    SegmentMeta,
    join_recompute_inputs,
    merge_layout,
)
from latentmas_ray.topology.agent import AgentMemory
from latentmas_ray.writing.question_memory import question_memories
from latentmas_ray.writing.text_engine import QuestionMemory


@dataclass(frozen=True, kw_only=True, eq=False)
class ReceivedMemory:
    """The memory of each question of a turn, in order."""

    starts: Sequence[int]  # the position of the first token of each prompt
    lengths: Sequence[int]  # tokens that are read
    memories: Sequence[QuestionMemory | None]
    inputs: Sequence[RecomputeInputs | None]
    held: object = None  # what the memories are views of


class ArrivedChunks:
    """The chunks of all segments of a turn, which have arrived: an `Incoming` that never waits."""

    def __init__(self, memory: Incoming) -> None:
        """Wait for all chunks of `memory`."""
        self._metas = memory.segments()
        self._chunks = {agent: list(memory.chunks_of(agent)) for agent in self._metas}

    def segments(self) -> Mapping[str, Segment | SegmentMeta]:
        return self._metas

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        return ((agent, chunk) for agent, chunks in self._chunks.items() for chunk in chunks)

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        return iter(self._chunks[agent])


def receive_memory(
    spec: KVCacheSpec,
    work: TurnRequest,
    memory: Incoming,
    recompute: Callable[[TurnRequest, Incoming], Mapping[str, Segment]] | None,
) -> ReceivedMemory:
    """Wait for the memory of a turn. Where some of it comes as recompute inputs, `recompute` makes KV of it; without
    that the inputs are returned.

    Raises SegmentError for memory that is incomplete or does not have `spec`, and the errors of `memory`.
    """
    nothing: list[None] = [None] * len(work.question_ids)
    if not work.recomputed:
        segments, chunks = memory.segments(), memory.chunks()
    else:
        arrived = ArrivedChunks(memory)
        if recompute is None:
            merged = merge_layout(work.reads, arrived.segments(), len(nothing))
            inputs = _chain_inputs(work, arrived)
            return ReceivedMemory(starts=merged.next_positions, lengths=merged.lengths, memories=nothing, inputs=inputs)
        segments = recompute(work, arrived)
        chunks = InMemorySegments(segments).chunks()
    merged = merge_layout(work.reads, segments, len(nothing))
    held: list[SegmentChunk] = []
    memories = question_memories(spec, merged, _collected(chunks, held))
    return ReceivedMemory(
        starts=merged.next_positions, lengths=merged.lengths, memories=memories, inputs=nothing, held=held
    )


def _collected(
    chunks: Iterable[tuple[str, SegmentChunk]], held: list[SegmentChunk]
) -> Iterator[tuple[str, SegmentChunk]]:
    for agent, chunk in chunks:
        held.append(chunk)
        yield agent, chunk


def _chain_inputs(work: TurnRequest, memory: ArrivedChunks) -> list[RecomputeInputs]:
    """Return all inputs of the agents before this one, by question. Raises SegmentError unless they are one chain whose
    agents hand over all: only then is what they computed a single sequence."""
    if sent := [name for name in work.segment_order() if name not in work.recomputed]:
        raise SegmentError(f"this engine recomputes the memory of all agents or of none, and {sent[0]} sent KV")
    chain: list[str] = []
    reads: tuple[AgentMemory, ...] = work.reads
    while reads:
        if len(reads) > 1:
            names = ", ".join(one.agent for one in reads)
            raise SegmentError(f"this engine recomputes only the memory of a chain, not of parallel agents ({names})")
        chain.insert(0, reads[0].agent)
        reads = reads[0].reads
    columns: list[list[RecomputeInputs]] = [[] for _ in work.question_ids]
    for agent in chain:
        meta = memory.segments()[agent]
        meta = meta.meta if isinstance(meta, Segment) else meta
        if meta.lengths != meta.turn_lengths or meta.kept is not None:
            raise SegmentError(f"this engine recomputes only whole turns, and agent {agent} hands over a part of its")
        parts = [chunk.recompute_inputs for chunk in memory.chunks_of(agent)]
        joined = join_recompute_inputs(parts, meta.turn_lengths)
        for question, column in enumerate(columns):
            column.append(joined.take([question]))
    return [_concatenate(column) for column in columns]


def _concatenate(inputs: Sequence[RecomputeInputs]) -> RecomputeInputs:
    return RecomputeInputs(
        torch.cat([one.token_ids_T for one in inputs]),
        torch.cat([one.latents_NE for one in inputs]),
        (sum(sum(one.lengths) for one in inputs),),
    )
