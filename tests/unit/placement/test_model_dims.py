"""Model dimensions: of presets, from configurations, from the headers of weight files."""

import json
from pathlib import Path

import pytest

from latentmas_ray.errors import ModelError
from latentmas_ray.placement.model_dims import DTYPE_BYTES, PRESETS, dims_of_config, known_dims

GOLDEN = Path(__file__).parents[2] / "golden"
KIB = 1024
KNOWN = {
    "qwen3-0.6b": (596_049_920, 112 * KIB),
    "qwen3-1.7b": (1_720_574_976, 112 * KIB),
    "qwen3-4b": (4_022_468_096, 144 * KIB),
    "qwen3-8b": (8_190_735_360, 144 * KIB),
    "qwen3-14b": (14_768_307_200, 160 * KIB),
}


@pytest.mark.parametrize("name", KNOWN)
def test_presets_have_the_published_sizes(name: str) -> None:
    assert (PRESETS[name].num_parameters, PRESETS[name].bytes_per_token) == KNOWN[name]


def test_every_preset_is_checked() -> None:
    assert PRESETS.keys() == KNOWN.keys()


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
