"""A reader of memory that came in fewer bytes is off by as much as the memory is, and not by more."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from latentmas_ray.engine.engine import Engine
from latentmas_ray.memory import InMemoryKV, Segment
from latentmas_ray.memory.codec import CodecName, decode_kv, encode_kv, relative_error
from tests.cases.memory import take
from tests.numerics.turns import begin, logits_of, place_chain, prompts_of, think

PROMPTS = {"a": prompts_of([9, 41, 120], 1), "b": prompts_of([70, 15, 1], 2), "c": prompts_of([5, 3, 8], 3)}
NUM_STEPS = 3
LOSSY: tuple[CodecName, ...] = ("bf16", "int8", "int4")
# Relative to the RMS of the exact KV and of the exact logits; at least twice what is seen.
LARGEST_KV_ERROR = {"bf16": 0.004, "int8": 0.012, "int4": 0.16}
LARGEST_LOGIT_ERROR = {"bf16": 0.004, "int8": 0.012, "int4": 0.16}


def chain(engine: Engine) -> dict[str, Segment]:
    segments = {"a": think(engine, PROMPTS["a"], NUM_STEPS)}
    segments["b"] = think(engine, PROMPTS["b"], NUM_STEPS, place_chain(segments))
    return segments


def coded(segment: Segment, codec: CodecName) -> Segment:
    """What arrives."""
    kv_LCHTD = decode_kv(encode_kv(segment.kv_LCHTD, segment.lengths, codec), segment.lengths, codec, segment.spec)
    return replace(segment, kv=InMemoryKV.of(segment.spec, segment.lengths, kv_LCHTD))


def read(engine: Engine, segments: Mapping[str, Segment]) -> Tensor:
    """The logits after the reader's prompt, as one layer for `relative_error`."""
    return logits_of(begin(engine, PROMPTS["c"], place_chain(segments))).clone().unsqueeze(0)


def test_no_codec_changes_no_logit(engine: Engine) -> None:
    segments = chain(engine)
    copies = {name: take(segment, range(segment.num_questions)) for name, segment in segments.items()}
    arrived = {name: coded(segment, "none") for name, segment in segments.items()}
    assert torch.equal(read(engine, arrived), read(engine, copies))


def test_logits_are_as_exact_as_their_memory(engine: Engine) -> None:
    segments = chain(engine)
    exact = read(engine, {name: coded(segment, "none") for name, segment in segments.items()})
    errors = []
    for codec in LOSSY:
        arrived = {name: coded(segment, codec) for name, segment in segments.items()}
        for name, segment in segments.items():
            assert 0 < relative_error(segment.kv_LCHTD, arrived[name].kv_LCHTD) <= LARGEST_KV_ERROR[codec]
        errors.append(relative_error(exact, read(engine, arrived)))
        assert 0 < errors[-1] <= LARGEST_LOGIT_ERROR[codec]
    assert errors == sorted(errors)
