"""One agent's segment for one question, in CPU memory: with its KV, or its recompute inputs alone.

Dimensions: L layers, C 2 (key, value), H KV heads, T kept tokens, D head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from latentmas_ray.errors import SegmentError
from latentmas_ray.memory.buffers import copy_into, empty_bytes
from latentmas_ray.memory.chunk import SegmentChunk, close, have_kv, join, join_recompute_inputs
from latentmas_ray.memory.kv_source import InMemoryKV, KVSource, concatenate_kv
from latentmas_ray.memory.reslice import gather
from latentmas_ray.memory.segment import LATENT, RecomputeInputs, SegmentMeta
from latentmas_ray.memory.spec import WHOLE, KVCacheSpec
from latentmas_ray.memory.wire import raw_bytes
from latentmas_ray.units import format_bytes


@dataclass(frozen=True, eq=False, repr=False)
class MemorySegment:
    """One agent's segment of a `Memory`: one question, all KV heads of the model. Immutable.

    `meta` describes the model and the tokens' positions; `inputs` are the tokens and latent thoughts that were fed in
    the agent's turn. `kv` holds the bytes; if it is None a reader computes the KV from the inputs. Raises SegmentError
    if the fields contradict each other.
    """

    meta: SegmentMeta
    inputs: RecomputeInputs
    kv: KVSource | None = None

    def __post_init__(self) -> None:
        if self.meta.num_questions != 1:
            raise SegmentError(f"a memory holds one question, not {self.meta.num_questions}")
        if self.spec.shard != WHOLE:
            raise SegmentError(f"a memory belongs to a whole model, not to {self.spec.shard}")
        if self.inputs.lengths != self.meta.turn_lengths:
            raise SegmentError(f"{self.inputs.lengths} inputs of a turn of {self.meta.turn_lengths}")
        tensors = [self.inputs.token_ids_T, self.inputs.latents_NE]
        self.to_chunk()  # checks the rest
        if self.kv is not None:
            tensors.append(self.kv.buffer())
        if any(tensor.device.type != "cpu" for tensor in tensors):
            raise SegmentError("a memory must be on the CPU")
        if self.inputs.token_ids_T.numel() and int(self.inputs.token_ids_T.min()) < LATENT:
            raise SegmentError(f"token ids are at least 0, not {int(self.inputs.token_ids_T.min())}")

    @classmethod
    def from_chunks(cls, chunks: Sequence[SegmentChunk], question: int = 0) -> "MemorySegment":
        """Build the segment of one question from all chunks of a batch's segment, in order; copies the bytes.

        Chunks of several tensor-parallel ranks are joined. Raises SegmentError if one is missing.
        """
        whole = gather(chunks)
        if not 0 <= question < whole[0].meta.num_questions:
            raise SegmentError(f"there is no question {question} of {whole[0].meta.num_questions}")
        parts = close([_question_of(chunk, question) for chunk in whole])
        if have_kv(whole):
            segment = join(parts)
            return cls(segment.meta, segment.recompute_inputs, segment.kv)
        meta = parts[0].meta
        if any(part.meta != meta for part in parts):
            raise SegmentError("pieces of different segments")
        return cls(meta, join_recompute_inputs([part.recompute_inputs for part in parts], meta.turn_lengths))

    def to_chunk(self) -> SegmentChunk:
        """The segment as one chunk; shares its bytes. `memory.chunk.repeat` repeats it for a batch."""
        if self.kv is None:
            return SegmentChunk.without_kv(self.meta, self.inputs)
        return SegmentChunk(self.meta, (0,), self.meta.lengths, self.kv, self.inputs)

    def without_kv(self) -> "MemorySegment":
        """Its recompute inputs alone."""
        return replace(self, kv=None)

    @property
    def spec(self) -> KVCacheSpec:
        return self.meta.spec

    @property
    def has_kv(self) -> bool:
        return self.kv is not None

    @property
    def kv_LCHTD(self) -> Tensor | None:  # noqa: N802  # it carries its dimensions like every tensor
        """The KV [L, 2, H, T, D], contiguous; None without KV."""
        return None if self.kv is None else self.kv.tensor()

    @property
    def num_tokens(self) -> int:
        """Tokens and latent thoughts that it adds to a reader's cache."""
        return self.meta.kv_lengths[0]

    @property
    def num_latent_thoughts(self) -> int:
        """The number of latent thoughts among these tokens."""
        first = self.meta.offsets[0]
        return int((self.inputs.token_ids_T[first : first + self.meta.lengths[0]] == LATENT).sum())

    @property
    def num_bytes(self) -> int:
        """Bytes of KV, or of the recompute inputs without KV."""
        return self.meta.num_bytes if self.has_kv else self.inputs.bytes_per_question[0]

    @property
    def start(self) -> int:
        """The position at which its first token was computed; merging parallel branches shifts it."""
        return self.meta.starts[0]

    def __eq__(self, other: object) -> bool:
        """Whether all fields and bytes are equal."""
        if not isinstance(other, MemorySegment):
            return NotImplemented
        return (
            self.meta == other.meta
            and _are_equal(self.inputs.token_ids_T, other.inputs.token_ids_T)
            and _are_equal(self.inputs.latents_NE, other.inputs.latents_NE)
            and _are_equal(*(None if one.kv is None else one.kv.buffer() for one in (self, other)))
        )

    __hash__ = None  # type: ignore[assignment]  # its tensors can only be compared

    def __repr__(self) -> str:
        kind = "KV" if self.has_kv else "recompute inputs"
        size = format_bytes(self.num_bytes)
        return f"MemorySegment({self.num_tokens} tokens, {self.num_latent_thoughts} latent thoughts, {size} of {kind})"


def _question_of(chunk: SegmentChunk, question: int) -> SegmentChunk:
    """One question of a chunk, copied to the CPU."""
    meta, length = chunk.meta.take([question]), chunk.lengths[question]
    recompute_inputs = chunk.recompute_inputs.take([question])
    recompute_inputs = RecomputeInputs(
        recompute_inputs.token_ids_T.cpu(), recompute_inputs.latents_NE.cpu(), recompute_inputs.lengths
    )
    layout = meta.layout((chunk.begins[question],), (length,))
    if layout.is_uniform:
        kv = InMemoryKV(layout, empty_bytes(layout.num_bytes, recompute_inputs.latents_NE.device))
        kv_LCHTD = kv.tensor()
        for head, part_LCHTD in chunk.head_views(question):
            assert isinstance(part_LCHTD, Tensor), "layers are alike"
            copy_into(kv_LCHTD[:, :, head : head + part_LCHTD.shape[2]], part_LCHTD)
    else:
        kv = InMemoryKV(layout, concatenate_kv(layout, [(chunk.kv, question)]).buffer().cpu())
    return SegmentChunk(meta, (chunk.begins[question],), (length,), kv, recompute_inputs)


def _are_equal(mine: Tensor | None, other: Tensor | None) -> bool:
    if mine is None or other is None or mine is other:
        return mine is other
    return mine.shape == other.shape and np.array_equal(raw_bytes(mine), raw_bytes(other))
