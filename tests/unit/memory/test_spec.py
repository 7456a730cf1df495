"""What must agree before memory may be read, and what happens where it does not."""

import json
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch

from latentmas_ray.errors import IncompatibleMemoryError, WireError
from latentmas_ray.memory import KVCacheSpec, LayerSpec, RopeSpec, TensorSpec, TPRank
from tests.cases.memory import ROPE, SPEC, reshaped

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


def test_equal_specs_are_the_same() -> None:
    twin = reshaped(SPEC, rope=RopeSpec("default", (1.0, 0.1)))
    assert twin == SPEC
    assert twin.layers[0] is SPEC.layers[1]  # so that they are compared in no time
    SPEC.check_same(twin)


@pytest.mark.parametrize("field", OTHERS)
def test_every_field_that_differs_is_named(field: str) -> None:
    other = reshaped(SPEC, **{field: OTHERS[field]})
    assert other != SPEC
    with pytest.raises(IncompatibleMemoryError, match=field):
        SPEC.check_same(other)


def test_nearly_equal_frequencies_are_not_equal() -> None:
    other = reshaped(SPEC, rope=RopeSpec("default", (1.0, math.nextafter(0.1, 1))))
    assert other != SPEC


def test_a_spec_survives_the_wire_and_pickling() -> None:
    assert KVCacheSpec.from_header(SPEC.to_header()) == SPEC
    assert pickle.loads(pickle.dumps(SPEC)) == SPEC


def test_a_shard_survives_the_wire_and_a_whole_model_says_nothing_of_it() -> None:
    assert "shard" not in SPEC.to_header()
    half = SPEC.of_shard(TPRank(1, 2))
    assert (half.num_kv_heads, half.num_model_kv_heads) == (1, 2)
    assert KVCacheSpec.from_header(half.to_header()) == half
    assert half.of_shard(TPRank()) == SPEC
    assert half != SPEC


def test_bytes_per_token_counts_keys_and_values_of_all_layers() -> None:
    assert SPEC.bytes_per_token == 2 * 2 * 2 * 4 * 4
    assert reshaped(SPEC, dtype="bfloat16").bytes_per_token == SPEC.bytes_per_token // 2
    assert reshaped(SPEC, dtype="bfloat16").torch_dtype is torch.bfloat16


@pytest.mark.parametrize(
    "change",
    [{"dtype": "int8"}, {"num_layers": 0}, {"num_kv_heads": -1}, {"head_dim": 2}, {"hidden_size": 0}],
    ids=str,
)
def test_impossible_specs_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(IncompatibleMemoryError):
        reshaped(SPEC, **change)


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "", "proportional"])
def test_kinds_that_depend_on_the_length_are_refused(kind: str) -> None:
    with pytest.raises(IncompatibleMemoryError, match="RoPE kind"):
        RopeSpec(kind, (1.0,))


OLD = {
    "architecture": SPEC.architecture,
    "num_layers": SPEC.num_layers,
    "num_kv_heads": SPEC.num_kv_heads,
    "head_dim": SPEC.head_dim,
    "hidden_size": SPEC.hidden_size,
    "dtype": SPEC.dtype,
    "rope": {"kind": ROPE.kind, "inv_freq": list(ROPE.inv_freq)},
    "weights_revision": SPEC.weights_revision,
}
LATENT_LAYER = LayerSpec(
    (TensorSpec("latent", 1, 16, "bfloat16"), TensorSpec("position", 1, 4, "float32", ROPE)),
)
MIXED = replace(SPEC, layers=(SPEC.layers[0], LATENT_LAYER, LayerSpec(()), SPEC.layers[0]))


def test_the_header_of_version_1_is_read() -> None:
    assert KVCacheSpec.from_header(OLD) == SPEC
    assert KVCacheSpec.from_header({**OLD, "shard": {"rank": 1, "of": 3}}).shard == TPRank(1, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": None},
        {"num_layers": "many"},
        {"num_layers": math.inf},
        {"num_layers": math.nan},
        {"num_layers": -1},
        {"num_layers": 2**40},
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
        KVCacheSpec.from_header({**OLD, **change})
    if set(change) <= set(SPEC.to_header()) | {"shard"}:
        with pytest.raises(WireError, match="spec"):
            KVCacheSpec.from_header({**SPEC.to_header(), **change})


@pytest.mark.parametrize("field", SPEC.to_header())
def test_a_header_without_a_field_is_refused(field: str) -> None:
    header = SPEC.to_header()
    del header[field]
    with pytest.raises(WireError, match="spec cannot be read"):
        KVCacheSpec.from_header(header)


class TestLayersThatDiffer:
    def test_a_header_names_each_kind_once(self) -> None:
        forty = reshaped(SPEC, num_layers=40)
        assert len(json.dumps(forty.to_header())) == len(json.dumps(reshaped(SPEC, num_layers=10).to_header()))
        assert MIXED.to_header()["layers"] == [[0, 1], [1, 1], [2, 1], [0, 1]]
        assert len(MIXED.to_header()["layer_kinds"]) == 3
        assert KVCacheSpec.from_header(json.loads(json.dumps(MIXED.to_header()))) == MIXED

    @pytest.mark.parametrize(
        "layers", [[[0, 2**40]], [[0, -1]], [[0, 0]], [[3, 1]], [[-1, 1]], [[0]], [0], 0, None, [], [["x", 1]]], ids=str
    )
    def test_runs_that_make_no_sense_are_refused(self, layers: object) -> None:
        with pytest.raises(WireError, match="spec cannot be read"):
            KVCacheSpec.from_header({**MIXED.to_header(), "layers": layers})

    @pytest.mark.parametrize("field", ["name", "num_heads", "head_dim", "dtype", "rope"])
    def test_a_tensor_says_everything(self, field: str) -> None:
        header = MIXED.to_header()
        del header["layer_kinds"][1][0][field]
        with pytest.raises(WireError, match="spec cannot be read"):
            KVCacheSpec.from_header(header)

    def test_its_layers_are_not_computed_with_and_the_first_in_the_way_is_named(self) -> None:
        assert not MIXED.is_uniform
        for ask in (lambda: MIXED.num_kv_heads, lambda: MIXED.head_dim, lambda: MIXED.rope, MIXED.require_uniform):
            with pytest.raises(IncompatibleMemoryError, match=r"^layer 1 caches latent 1×16 bfloat16, position 1×4"):
                ask()
        with pytest.raises(IncompatibleMemoryError, match="layer 0 caches nothing"):
            replace(SPEC, layers=(LayerSpec(()),)).require_uniform()

    def test_a_layer_that_differs_is_named(self) -> None:
        wider = replace(LATENT_LAYER.tensors[0], head_dim=8)
        other = replace(MIXED, layers=(MIXED.layers[0], LayerSpec((wider, LATENT_LAYER.tensors[1])), *MIXED.layers[2:]))
        with pytest.raises(IncompatibleMemoryError, match="layer 1 caches latent 1×8"):
            MIXED.check_same(other)
        turned = replace(LATENT_LAYER.tensors[1], rope=RopeSpec("default", (1.0, 0.2)))
        other = replace(
            MIXED, layers=(MIXED.layers[0], LayerSpec((LATENT_LAYER.tensors[0], turned)), *MIXED.layers[2:])
        )
        with pytest.raises(IncompatibleMemoryError, match="other frequencies"):
            MIXED.check_same(other)
        with pytest.raises(IncompatibleMemoryError, match="num_layers is 2, not 4"):
            MIXED.check_same(SPEC)

    def test_bytes_are_those_of_all_tensors(self) -> None:
        assert MIXED.bytes_per_token == 2 * SPEC.layers[0].bytes_per_token + 16 * 2 + 4 * 4

    def test_one_name_is_of_one_tensor(self) -> None:
        with pytest.raises(IncompatibleMemoryError, match="two tensors with the same name"):
            LayerSpec((LATENT_LAYER.tensors[0],) * 2)


NO_ROPE = LayerSpec.attention(2, 4, "float32", None)
WINDOW = LayerSpec.attention(2, 4, "float32", RopeSpec("default", (1.0, 0.5), is_interleaved=True), 8)
POSITIONS = replace(SPEC, layers=(SPEC.layers[0], NO_ROPE, WINDOW))


class TestLayersThatDifferInTheirPositions:
    def test_they_are_stored_alike(self) -> None:
        assert POSITIONS.is_uniform
        assert (POSITIONS.num_kv_heads, POSITIONS.head_dim) == (2, 4)
        assert POSITIONS.bytes_per_token == 3 * SPEC.layers[0].bytes_per_token
        assert POSITIONS.ropes == (ROPE, None, WINDOW.tensors[0].rope)
        assert (POSITIONS.windows, POSITIONS.has_windows, SPEC.has_windows) == ((None, None, 8), True, False)
        with pytest.raises(IncompatibleMemoryError, match="not all rotated alike"):
            _ = POSITIONS.rope

    def test_their_header_is_read(self) -> None:
        header = json.loads(json.dumps(POSITIONS.to_header()))
        assert KVCacheSpec.from_header(header) == POSITIONS
        assert header["layer_kinds"][2]["window"] == 8
        # What has neither is as it was.
        assert "window" not in json.dumps(SPEC.to_header())
        assert "pairs" not in json.dumps(SPEC.to_header())

    @pytest.mark.parametrize("window", [0, -1, "x", None, 2**40, 1.5e300], ids=str)
    def test_an_impossible_window_is_refused(self, window: object) -> None:
        header = POSITIONS.to_header()
        header["layer_kinds"][2]["window"] = window
        with pytest.raises(WireError, match="spec cannot be read"):
            KVCacheSpec.from_header(header)

    @pytest.mark.parametrize("pairs", ["", "other", None, 3, []], ids=str)
    def test_unknown_pairs_are_refused(self, pairs: object) -> None:
        header = POSITIONS.to_header()
        header["layer_kinds"][2]["tensors"][0]["rope"]["pairs"] = pairs
        with pytest.raises(WireError, match="spec cannot be read"):
            KVCacheSpec.from_header(header)

    def test_a_layer_with_another_window_or_rotation_is_named(self) -> None:
        other = replace(POSITIONS, layers=(*POSITIONS.layers[:2], replace(WINDOW, window=9)))
        with pytest.raises(IncompatibleMemoryError, match=r"layer 2 caches .*window 9, not .*window 8"):
            POSITIONS.check_same(other)
        other = replace(POSITIONS, layers=(SPEC.layers[0], SPEC.layers[0], WINDOW))
        with pytest.raises(IncompatibleMemoryError, match=r"layer 1 caches .*RoPE default.*, not "):
            POSITIONS.check_same(other)
        same = replace(SPEC, layers=(replace(SPEC.layers[0], window=3),) * 2)
        with pytest.raises(IncompatibleMemoryError, match="window is 3, not None"):
            SPEC.check_same(same)

    def test_a_shard_has_the_same_windows(self) -> None:
        half = POSITIONS.of_shard(TPRank(1, 2))
        assert half.windows == POSITIONS.windows
        assert half.ropes == POSITIONS.ropes
        assert half.num_kv_heads == 1
