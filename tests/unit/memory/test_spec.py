"""What must agree before memory may be read, and what happens where it does not."""

import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

from latentmas_ray.errors import IncompatibleMemoryError, WireError
from latentmas_ray.memory import KVCacheSpec, RopeSpec, TPRank
from tests.cases.memory import ROPE, SPEC

OTHERS: dict[str, Any] = {
    "architecture": "OtherForCausalLM",
    "num_layers": 3,
    "num_kv_heads": 1,
    "head_dim": 8,
    "hidden_size": 12,
    "dtype": "bfloat16",
    "rope": RopeSpec("linear", ROPE.inv_freq),
    "weights_revision": "r1",
}


def test_equal_specs_have_one_fingerprint() -> None:
    twin = replace(SPEC, rope=RopeSpec("default", (1.0, 0.1)))
    assert twin.fingerprint == SPEC.fingerprint
    assert len(SPEC.fingerprint) == 32
    SPEC.check_same(twin)


@pytest.mark.parametrize("field", OTHERS)
def test_every_field_changes_the_fingerprint_and_is_named(field: str) -> None:
    other = replace(SPEC, **{field: OTHERS[field]})
    assert other.fingerprint != SPEC.fingerprint
    with pytest.raises(IncompatibleMemoryError, match=field):
        SPEC.check_same(other)


def test_nearly_equal_frequencies_are_not_equal() -> None:
    other = replace(SPEC, rope=RopeSpec("default", (1.0, math.nextafter(0.1, 1))))
    assert other.fingerprint != SPEC.fingerprint


def test_a_spec_survives_the_wire_and_pickling() -> None:
    assert KVCacheSpec.from_header(SPEC.to_header()) == SPEC
    assert pickle.loads(pickle.dumps(SPEC)).fingerprint == SPEC.fingerprint


def test_a_shard_survives_the_wire_and_a_whole_model_says_nothing_of_it() -> None:
    assert "shard" not in SPEC.to_header()
    half = SPEC.of_shard(TPRank(1, 2))
    assert (half.num_kv_heads, half.num_model_kv_heads) == (1, 2)
    assert KVCacheSpec.from_header(half.to_header()) == half
    assert half.of_shard(TPRank()) == SPEC
    assert half.fingerprint != SPEC.fingerprint


def test_bytes_per_token_counts_keys_and_values_of_all_layers() -> None:
    assert SPEC.bytes_per_token == 2 * 2 * 2 * 4 * 4
    assert replace(SPEC, dtype="bfloat16").bytes_per_token == SPEC.bytes_per_token // 2
    assert replace(SPEC, dtype="bfloat16").torch_dtype is torch.bfloat16


@pytest.mark.parametrize(
    "change",
    [{"dtype": "int8"}, {"num_layers": 0}, {"num_kv_heads": -1}, {"head_dim": 2}, {"hidden_size": 0}],
    ids=str,
)
def test_impossible_specs_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(IncompatibleMemoryError):
        replace(SPEC, **change)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "", "proportional"])
def test_kinds_that_depend_on_the_length_are_refused(kind: str) -> None:
    with pytest.raises(IncompatibleMemoryError, match="RoPE kind"):
        RopeSpec(kind, (1.0,))


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": None},
        {"num_layers": "many"},
        {"num_layers": math.inf},
        {"num_layers": math.nan},
        {"num_layers": -1},
        {"rope": None},
        {"rope": []},
        {"rope": {"kind": "default"}},
        {"rope": {"kind": "dynamic", "inv_freq": [1.0]}},
        {"rope": {"kind": "default", "inv_freq": ["x"]}},
        {"rope": {"kind": "default", "inv_freq": [math.nan]}},
        {"rope": {"kind": "default", "inv_freq": 1.0}},
        {"dtype": "complex64"},
        {"shard": None},
        {"shard": {"rank": 0}},
        {"shard": {"rank": 2, "of": 2}},
        {"shard": {"rank": -1, "of": 2}},
        {"shard": {"rank": 0, "of": 0}},
    ],
    ids=str,
)
def test_a_header_that_is_no_spec_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WireError, match="spec"):
        KVCacheSpec.from_header({**SPEC.to_header(), **change})


@pytest.mark.parametrize("field", OTHERS)
def test_a_header_without_a_field_is_refused(field: str) -> None:
    header = SPEC.to_header()
    del header[field]
    with pytest.raises(WireError, match=field):
        KVCacheSpec.from_header(header)
