"""Segments as safetensors files: what is kept comes back, and what was altered does not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from latentmas_ray.errors import IncompatibleMemoryError, WireError
from latentmas_ray.memory import load_segment, save_segment
from tests.unit.memory_cases import SPEC, assert_equal, make_segment, spec_of


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "memory.safetensors"
    save_segment(make_segment([(3, 2), (0, 0), (1, 0)], turn_starts=[7, 8, 9]), path)
    return path


def rewrite(path: Path, *, meta: dict[str, Any] | None = None, **tensors: torch.Tensor) -> None:
    """The file with other tensors or other metadata: a valid safetensors file all the same."""
    with safe_open(path, framework="pt") as file:
        own = json.loads(file.metadata()["latentmas_segment"])
        content = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 not a mapping
    save_file({**content, **tensors}, path, metadata={"latentmas_segment": json.dumps({**own, **(meta or {})})})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("turns", [[(3, 2), (0, 0), (1, 0)], [(0, 0)]])
def test_files_there_and_back(dtype: str, turns: list[tuple[int, int]], tmp_path: Path) -> None:
    segment = make_segment(turns, spec=spec_of(dtype))
    save_segment(segment, tmp_path / "memory.safetensors")
    assert_equal(load_segment(tmp_path / "memory.safetensors", expected=segment.spec), segment)


def test_a_part_of_a_turn_there_and_back(tmp_path: Path) -> None:
    segment = make_segment([(3, 2)], windows=[(1, 3)])
    save_segment(segment, tmp_path / "memory.safetensors")
    assert_equal(load_segment(tmp_path / "memory.safetensors"), segment)


def test_other_tools_can_look_at_it(kept: Path) -> None:
    with safe_open(kept, framework="np") as file:
        assert sorted(file.keys()) == ["kv", "latents", "token_ids"]
        assert file.get_tensor("kv").shape == (2, 2, 2, 6, 4)


def test_memory_of_another_model_is_refused(kept: Path) -> None:
    with pytest.raises(IncompatibleMemoryError, match="weights_revision"):
        load_segment(kept, expected=replace(SPEC, weights_revision="r1"))


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "memory.safetensors"
    save_segment(make_segment([(1, 1)]), path)
    content = path.read_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(WireError):
            load_segment(path)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -1])
def test_truncated_files_are_refused(kept: Path, length: int) -> None:
    kept.write_bytes(kept.read_bytes()[:length])
    with pytest.raises(WireError, match=r"memory\.safetensors: cannot be read"):
        load_segment(kept)


@pytest.mark.parametrize(
    "change",
    [
        {"meta": {"turn_starts": [7, 8, 10]}},
        {"meta": {"spec": {**SPEC.to_header(), "weights_revision": "r1"}}},
        {"meta": {"digest": None}},
        {"meta": {"digest": "0" * 32}},
        {"kv": torch.zeros(2, 2, 2, 6, 4)},
        {"token_ids": torch.zeros(6, dtype=torch.int64)},
        {"latents": torch.zeros(2, 6)},
    ],
    ids=str,
)
def test_altered_files_are_refused(kept: Path, change: dict[str, Any]) -> None:
    rewrite(kept, **change)
    with pytest.raises(WireError, match="altered"):
        load_segment(kept)


@pytest.mark.parametrize("version", [2, "1", None])
def test_another_version_is_named(kept: Path, version: object) -> None:
    rewrite(kept, meta={"version": version})
    with pytest.raises(WireError, match="reads version 1"):
        load_segment(kept)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(WireError, match="not of a segment"):
        load_segment(path)
    path.write_text("not safetensors at all")
    with pytest.raises(WireError, match="cannot be read"):
        load_segment(path)
    save_file({"weight": torch.zeros(2)}, path, metadata={"latentmas_segment": "[1]"})
    with pytest.raises(WireError):
        load_segment(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WireError, match=r"missing\.safetensors"):
        load_segment(tmp_path / "missing.safetensors")
    with pytest.raises(WireError):
        load_segment(tmp_path)


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        save_segment(make_segment([(1, 0)]), tmp_path / "missing" / "memory.safetensors")
