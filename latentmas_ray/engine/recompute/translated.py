"""Memory of agents with another model, as its reader computes it: their inputs, translated into the reader's."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from latentmas_ray.engine.segment_io import Incoming
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
from latentmas_ray.parallel.ranks import Ranks
from latentmas_ray.topology.agent import AgentMemory


class InputTranslator(Protocol):
    """Translates the inputs of one model into those of another; lengths may change. Always gives the same."""

    def translate(self, inputs: RecomputeInputs) -> RecomputeInputs:
        """Return the reader's inputs: text as its tokens, thoughts [N, E] in its embedding space."""


class SameWeights:
    """For a writer with the reader's weights in another dtype: its inputs are the reader's."""

    def translate(self, inputs: RecomputeInputs) -> RecomputeInputs:
        """Return the inputs as they are."""
        return inputs


class TranslatedSegments:
    """An `Incoming` in which the segments of other models are replaced by their translated inputs, without KV.

    A segment is translated when all its chunks have arrived, since its length is needed before anything is computed.
    """

    def __init__(
        self,
        memory: Incoming,
        reads: Sequence[AgentMemory],
        translators: Mapping[str, InputTranslator],
        spec: KVCacheSpec,
        ranks: Ranks,
    ) -> None:
        """`translators` is by writing agent. Waits for the segments of these agents.

        Raises SegmentError for incomplete memory, and the errors of `memory` and of the translators.
        """
        self._memory = memory
        with ranks.all_or_none():
            self._metas: dict[str, Segment | SegmentMeta] = dict(memory.segments())
        self._chunks: dict[str, SegmentChunk] = {}
        for node in in_reading_order(reads):
            if node.agent not in translators or node.agent in self._chunks:
                continue
            chunks = list(ranks.each(memory.chunks_of(node.agent)))
            with ranks.all_or_none():
                starts = merge_layout(node.reads, self._metas, chunks[0].meta.num_questions).next_positions
                self._chunks[node.agent] = translate_segment(translators[node.agent], chunks, starts, spec)
            self._metas[node.agent] = self._chunks[node.agent].meta

    def segments(self) -> Mapping[str, Segment | SegmentMeta]:
        """Each segment or its meta data; those of other models with the lengths and positions that they have here."""
        return self._metas

    def chunks(self) -> Iterator[tuple[str, SegmentChunk]]:
        """All chunks with their agents, translated ones first."""
        yield from self._chunks.items()
        yield from self._memory.chunks()

    def chunks_of(self, agent: str) -> Iterator[SegmentChunk]:
        """The chunks of one agent's segment; a translated one is a single chunk."""
        return iter([self._chunks[agent]]) if agent in self._chunks else self._memory.chunks_of(agent)


def translate_segment(
    translator: InputTranslator, chunks: Sequence[SegmentChunk], turn_starts: Sequence[int], spec: KVCacheSpec
) -> SegmentChunk:
    """Return the segment that these chunks are of as inputs of a model with `spec`, whose turns begin at `turn_starts`.

    What the writer hands over stays the same part of its turn; inputs behind it are left out. Raises SegmentError if
    chunks are missing, and what `translator` raises.
    """
    meta = chunks[0].meta
    inputs = join_recompute_inputs([chunk.recompute_inputs for chunk in chunks], meta.turn_lengths)
    ends = [offset + length for offset, length in zip(meta.offsets, meta.lengths, strict=True)]
    found = _translated(translator, inputs.head(ends), spec)
    # The inputs before the part that is handed over end where its thoughts begin, so they translate to a beginning.
    before = _translated(translator, inputs.head(meta.offsets), spec).lengths if any(meta.offsets) else meta.offsets
    offsets = tuple(map(min, before, found.lengths))
    lengths = tuple(turn - offset for turn, offset in zip(found.lengths, offsets, strict=True))
    return SegmentChunk.without_kv(SegmentMeta(spec, lengths, tuple(turn_starts), offsets, found.lengths), found)


def _translated(translator: InputTranslator, inputs: RecomputeInputs, spec: KVCacheSpec) -> RecomputeInputs:
    found = translator.translate(inputs)
    sizes = (len(found.lengths), found.latents_NE.shape[1])
    if sizes != (len(inputs.lengths), spec.hidden_size):
        expected = f"{len(inputs.lengths)} questions and hidden size {spec.hidden_size}"
        raise SegmentError(f"translated inputs are of {sizes[0]} questions and hidden size {sizes[1]}, not {expected}")
    return RecomputeInputs(found.token_ids_T, found.latents_NE.to("cpu", spec.torch_dtype), found.lengths)


def in_reading_order(memories: Sequence[AgentMemory]) -> list[AgentMemory]:
    """All memories, each after those that it reads."""
    return [node for memory in memories for node in (*in_reading_order(memory.reads), memory)]
