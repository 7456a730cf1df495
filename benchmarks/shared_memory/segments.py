"""Parts of segments that were computed with more: fewer thoughts, only some questions, another codec.

Dimensions: L layers, H KV heads, T tokens of all questions one after another, D head dim.
"""

from collections.abc import Sequence
from itertools import chain

import torch

from latentmas_ray.config import CodecName
from latentmas_ray.memory import InMemoryKV, RecomputeInputs, Segment, SegmentMeta
from latentmas_ray.memory.codec import coded_bytes, decode_kv, encode_kv
from latentmas_ray.memory.kv_source import concatenate_kv
from latentmas_ray.memory.layer_spec import KeptTokens, LayerTokens, Ranges
from latentmas_ray.topology.agent import HandsOver


def stack(segments: Sequence[Segment]) -> Segment:
    """The questions of several segments, one segment after another; copies their bytes."""
    metas = [segment.meta for segment in segments]
    meta = SegmentMeta(
        metas[0].spec,
        tuple(chain.from_iterable(meta.lengths for meta in metas)),
        tuple(chain.from_iterable(meta.turn_starts for meta in metas)),
        tuple(chain.from_iterable(meta.offsets for meta in metas)),
        tuple(chain.from_iterable(meta.turn_lengths for meta in metas)),
        _stack_kept(metas),
    )
    rows = [(segment.kv, question) for segment in segments for question in range(segment.num_questions)]
    inputs = [segment.recompute_inputs for segment in segments]
    fed = RecomputeInputs(
        torch.cat([one.token_ids_T for one in inputs]), torch.cat([one.latents_NE for one in inputs]), meta.turn_lengths
    )
    return Segment(meta, concatenate_kv(meta.layout(), rows), fed)


def _stack_kept(metas: Sequence[SegmentMeta]) -> KeptTokens | None:
    if all(meta.kept is None for meta in metas):
        return None
    by_segment = [
        meta.kept or (tuple(((0, length),) if length else () for length in meta.lengths),) * meta.spec.num_layers
        for meta in metas
    ]
    found: dict[tuple[int, ...], LayerTokens] = {}  # by identity: most layers keep the same
    for layer in zip(*by_segment, strict=True):
        found.setdefault(tuple(map(id, layer)), tuple(chain.from_iterable(layer)))
    return tuple(found[tuple(map(id, layer))] for layer in zip(*by_segment, strict=True))


def take(segment: Segment, questions: Sequence[int]) -> Segment:
    """The segment of these questions, in that order; copies their bytes."""
    meta = segment.meta.take(questions)
    rows = [(segment.kv, question) for question in questions]
    return Segment(meta, concatenate_kv(meta.layout(), rows), segment.recompute_inputs.take(questions))


def cut(segment: Segment, prompt_lengths: Sequence[int], thoughts: int, part: HandsOver) -> Segment:
    """What the same turns would have handed over with the first `thoughts` of their thoughts, and only this part;
    copies bytes. The segment must hand over everything."""
    turns = tuple(length + thoughts for length in prompt_lengths)
    offsets = tuple(prompt_lengths) if part == "latents" else (0,) * len(turns)
    stops = tuple(prompt_lengths) if part == "prompt" else turns
    lengths = tuple(stop - offset for stop, offset in zip(stops, offsets, strict=True))
    kept = None
    if part == "latents+sink":
        kept = tuple(
            ((0, 1), (prompt, stop)) if 1 < prompt < stop else ((0, stop if prompt == 1 else 1),)
            for prompt, stop in zip(prompt_lengths, stops, strict=True)
        )
    meta = _meta(segment, lengths, offsets, turns, kept)
    whole = [((0, length),) for length in lengths]
    return _selected(segment, meta, kept or whole)


def select(segment: Segment, ranges: Sequence[Ranges]) -> Segment:
    """Only these tokens of each question, in all layers; copies bytes. The segment must hand over everything."""
    meta = segment.meta
    kept = tuple(_joined(one) for one in ranges)
    return _selected(segment, _meta(segment, meta.lengths, meta.offsets, meta.turn_lengths, kept), kept)


def _meta(
    segment: Segment,
    lengths: tuple[int, ...],
    offsets: tuple[int, ...],
    turns: tuple[int, ...],
    kept: LayerTokens | None,
) -> SegmentMeta:
    layers = None if kept is None else (kept,) * segment.spec.num_layers
    return SegmentMeta(segment.spec, lengths, segment.turn_starts, offsets, turns, layers)


def _selected(segment: Segment, meta: SegmentMeta, ranges: Sequence[Ranges]) -> Segment:
    """The tokens of `ranges`, counted from the first that `meta` hands over."""
    parts = []
    for question, (one, offset) in enumerate(zip(ranges, meta.offsets, strict=True)):
        tokens = [offset + token for first, stop in one for token in range(first, stop)]
        parts.append(segment.kv_of(question)[:, :, :, torch.tensor(tokens, dtype=torch.int64)])
    kv = InMemoryKV.of(segment.spec, meta.kv_lengths, torch.cat(parts, dim=3).contiguous())
    return Segment(meta, kv, segment.recompute_inputs.head(meta.turn_lengths))


def _joined(ranges: Ranges) -> Ranges:
    """Ranges in order, of which two that touch become one."""
    found: list[tuple[int, int]] = []
    for first, stop in ranges:
        if found and found[-1][1] == first:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((first, stop))
    return tuple(found)


def through_codec(segment: Segment, codec: CodecName) -> Segment:
    """The segment as a reader gets it through this codec. What a question decodes to does not depend on the others."""
    lengths, spec = segment.kv_lengths, segment.spec
    body = encode_kv(segment.kv_LCHTD, lengths, codec)
    return Segment(
        segment.meta, InMemoryKV.of(spec, lengths, decode_kv(body, lengths, codec, spec)), segment.recompute_inputs
    )


def sent_bytes(segment: Segment, codec: CodecName) -> list[int]:
    """Bytes of KV of each question as it is sent alone with this codec."""
    return [coded_bytes((length,), codec, segment.spec) for length in segment.kv_lengths]
