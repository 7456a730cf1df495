"""Model dimensions: of presets, from configurations, from the headers of weight files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from latentmas_ray.errors import ModelError
from latentmas_ray.placement.model_dims import (
    DTYPE_BYTES,
    PRESETS,
    CacheSizes,
    caches_alike,
    dims_of_config,
    known_dims,
)

GOLDEN = Path(__file__).parents[2] / "golden"
KIB = 1024
KNOWN = {
    "qwen3-0.6b": (596_049_920, 112 * KIB),
    "qwen3-1.7b": (1_720_574_976, 112 * KIB),
    "qwen3-4b": (4_022_468_096, 144 * KIB),
    "qwen3-8b": (8_190_735_360, 144 * KIB),
    "qwen3-14b": (14_768_307_200, 160 * KIB),
    "qwen3-32b": (32_762_123_264, 256 * KIB),
    "qwen2.5-7b": (7_615_616_512, 56 * KIB),
    "qwen2.5-14b": (14_770_033_664, 192 * KIB),
    "qwen2.5-32b": (32_763_876_352, 256 * KIB),
    "qwen2.5-72b": (72_706_203_648, 320 * KIB),
    "llama-3.1-8b": (8_030_261_248, 128 * KIB),
    "llama-3.1-70b": (70_553_706_496, 320 * KIB),
    "llama-3.3-70b": (70_553_706_496, 320 * KIB),
}


@pytest.mark.parametrize("name", KNOWN)
def test_presets_have_the_published_sizes(name: str) -> None:
    assert (PRESETS[name].num_parameters, PRESETS[name].bytes_per_token) == KNOWN[name]


def test_every_preset_is_checked() -> None:
    assert PRESETS.keys() == KNOWN.keys()


@pytest.mark.parametrize("name", [name for name in KNOWN if not name.startswith("qwen3-")])
def test_the_dimensions_explain_the_published_parameters(name: str) -> None:
    """Of every layer two norms and, in Qwen2.5, the biases of queries, keys and values; one norm at the end."""
    dims = PRESETS[name]
    biases = dims.head_dim * (dims.num_heads + 2 * dims.num_kv_heads) if name.startswith("qwen2.5") else 0
    rest = dims.num_layers * (2 * dims.hidden_size + biases) + dims.hidden_size
    embeddings = 2 * dims.vocab_size * dims.hidden_size
    assert dims.shared_out_parameters + embeddings + rest == dims.num_parameters


@pytest.mark.parametrize(
    ("hub_id", "preset"),
    [
        ("Qwen/Qwen3-32B", "qwen3-32b"),
        ("Qwen/Qwen3-8B-Base", "qwen3-8b"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b"),
        ("Qwen/Qwen2.5-72B-Instruct", "qwen2.5-72b"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3-70b"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama-3.1-8b"),
    ],
)
def test_hub_ids_of_presets(hub_id: str, preset: str) -> None:
    assert known_dims(hub_id) == PRESETS[preset]


@pytest.mark.parametrize("hub_id", ["Qwen/Qwen3-32B-FP8", "Qwen/Qwen2.5-Coder-7B", "x/llama-3.1-70b-instruct-awq"])
def test_other_variants_are_not_presets(hub_id: str) -> None:
    assert known_dims(hub_id) is None


def test_ranks_divide_the_matrices_and_each_holds_the_rest() -> None:
    model = PRESETS["qwen3-14b"]
    whole = model.whole_parameters * model.itemsize
    assert model.weights_bytes() == 2 * model.num_parameters
    assert 4 * (model.weights_bytes(4) - whole) == model.weights_bytes() - whole


def test_a_hub_id_of_a_preset_needs_no_request_to_the_hub() -> None:
    assert known_dims("Qwen/Qwen3-14B") == PRESETS["qwen3-14b"]
    assert known_dims("owner/unknown-model") is None


def test_the_dimensions_of_a_folder_come_from_its_files() -> None:
    dims = known_dims(str(GOLDEN / "model"))
    assert dims is not None
    from safetensors import safe_open

    with safe_open(GOLDEN / "model" / "model.safetensors", "pt") as file:
        assert dims.num_parameters == sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "whole safetensors files"),
        ("{}", "the sizes of a dense decoder: KeyError('num_attention_heads')"),
        ('{"num_attention_heads": 0}', "the sizes of a dense decoder"),
        ("[]", "the sizes of a dense decoder"),
    ],
)
def test_a_folder_without_usable_sizes_is_refused(tmp_path: Path, config: str, message: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match="model") as caught:
        known_dims(str(tmp_path))
    assert message in str(caught.value)


def of_header(header: bytes, *, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        of_header(b"{}", length=10**6),
        of_header(b"{}", length=2**63),
        of_header(b"[]"),
        of_header(b'{"a":' * 100_000),
        of_header(b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'),
        of_header(b'{"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,0]}}'),
    ],
    ids=["empty", "cut off", "huge header", "no mapping", "nested", "no tensors", "overflow"],
)
def test_a_damaged_file_gives_a_one_line_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"whole safetensors files: model\.safetensors: ") as caught:
        known_dims(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_without_num_key_value_heads_every_head_has_its_own_kv() -> None:
    config = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "torch_dtype": "float16",
    }
    figures = dims_of_config(json.loads(json.dumps(config)), "made-up")
    assert (figures.num_kv_heads, figures.head_dim, figures.itemsize) == (4, 16, DTYPE_BYTES["float16"])


def test_the_dimensions_of_a_vision_language_model_are_those_of_its_text_decoder() -> None:
    text = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 100,
    }
    vision = {"hidden_size": 1000, "num_hidden_layers": 30, "num_attention_heads": 10}
    config = {"text_config": text, "vision_config": vision, "dtype": "float32", "tie_word_embeddings": True}
    dims = dims_of_config(config, "made-up")
    assert dims == dims_of_config({**text, "dtype": "float32", "tie_word_embeddings": True}, "made-up")
    assert dims.bytes_per_token == 2 * 2 * 2 * 16 * 4


@pytest.mark.parametrize(
    "field",
    [
        {"kv_lora_rank": 64},
        {"layer_types": ["linear_attention", "full_attention"]},
        {"mamba_d_state": 16},
        {"attn_layer_period": 8},
        {"hybrid_override_pattern": "M*"},
        {"global_head_dim": 512},
        {"cross_attention_layers": [3]},
        {"num_kv_shared_layers": 1},
        {"v_head_dim": 8},
    ],
    ids=lambda field: next(iter(field)),
)
def test_layers_that_do_not_all_cache_a_key_and_a_value_alike_are_noticed(field: dict[str, object]) -> None:
    plain = {"num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"], "kv_lora_rank": None}
    assert caches_alike(plain)
    assert not caches_alike(plain | field)


def test_the_sizes_of_a_cache_of_its_own_kind() -> None:
    sizes = CacheSizes(token_numbers=100, state_numbers=10, fixed_state_bytes=64, kinds="1 × (state)")
    dims = replace(PRESETS["qwen3-0.6b"], cache=sizes, stored_parameters=400_000_000)
    assert (dims.bytes_per_token, dims.state_bytes, dims.memory_bytes(5)) == (200, 84, 1084)
    in_float32 = dims.in_dtype("float32")
    assert (in_float32.bytes_per_token, in_float32.state_bytes) == (400, 104)
    assert dims.num_parameters == 400_000_000
