"""Memories as safetensors files: what is kept comes back, what was altered does not, and no file is half written."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from latentmas_ray.errors import MemoryInputError, SegmentError
from latentmas_ray.memory import Memory
from latentmas_ray.memory import files as memory_files
from tests.cases.memory import SPEC, make_memory, memories

MEMORY = make_memory({"planner": (3, 2), "critic": (0, 0), "refiner": (1, 0)}, texts={"judge": "Yes — 42 ✓"})
ONCE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.safetensors"


@pytest.fixture
def kept(path: Path) -> Path:
    MEMORY.save(path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(MemoryInputError) as error:
        Memory.load(path)
    line = str(error.value)
    assert line.startswith("memory file: got ")
    assert len(line.splitlines()) == 1
    return line


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object], version: str = "2") -> None:
    """Rewrite the file with other content, and with the digest that belongs to it."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    meta = json.loads(metadata["memory"])
    text = change(meta, tensors)
    entries: dict[str, Any] = {"__metadata__": {**metadata, "digest": "0" * 32}}
    entries["__metadata__"]["memory"] = text if isinstance(text, str) else json.dumps(meta)
    # The fixed beginning, in its order.
    first = {name: entries["__metadata__"].pop(name) for name in ("latentmas_memory", "digest")}
    first["latentmas_memory"] = version
    entries["__metadata__"] = {**first, **entries["__metadata__"]}
    names, begin = {torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16"}, 0
    ordered = sorted(tensors.items(), key=lambda item: -item[1].itemsize)
    for name, tensor in ordered:
        offsets = [begin, begin := begin + tensor.nbytes]
        entries[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    content = len(header).to_bytes(8, "little") + header
    content += b"".join(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for _, tensor in ordered)
    path.write_bytes(content.replace(b"0" * 32, xxhash.xxh3_128(content).hexdigest().encode(), 1))


@ONCE
@given(memories())
def test_there_and_back(tmp_path: Path, memory: Memory) -> None:
    memory.save(tmp_path / "memory.safetensors")
    again = Memory.load(tmp_path / "memory.safetensors")
    assert again == memory
    assert again.agents == memory.agents


@pytest.mark.parametrize("text", ["", "日本語 العربية עברית", "\udcff\ud800", "\x00\x1b[2J\n", '"}\\', "x" * 100_000])
def test_whatever_was_asked_and_written(path: Path, text: str) -> None:
    memory = make_memory({"planner": (1, 1)}, texts={"judge": text}, question=text)
    memory.save(path)
    assert Memory.load(path) == memory


def test_text_alone(path: Path) -> None:
    memory = Memory(model="m", question="?", reads=(), segments={}, texts={"judge": "42"})
    memory.save(path)
    assert Memory.load(path) == memory


def test_without_its_kv(path: Path) -> None:
    MEMORY.save(path, kv=False)
    assert Memory.load(path) == MEMORY.without_kv()
    with safe_open(path, framework="np") as file:
        assert not [name for name in file.keys() if name.endswith(".kv")]  # noqa: SIM118


def test_a_path_may_be_text(path: Path) -> None:
    MEMORY.save(str(path))
    assert Memory.load(str(path)) == MEMORY


def test_other_tools_can_look_at_it(kept: Path) -> None:
    with safe_open(kept, framework="np") as file:
        assert file.get_tensor("planner.kv").shape == (2, 2, 2, 5, 4)
        assert file.get_tensor("planner.token_ids").shape == (5,)
        assert file.get_tensor("planner.latents").shape == (2, 6)
        assert "prompts" in file.metadata()["notice"]
        assert json.loads(file.metadata()["memory"])["spec"]["weights_revision"] == "r0"


class TestWriting:
    @pytest.mark.parametrize("umask", [0, 0o022, 0o277, 0o777])
    def test_only_its_owner_can_read_it(self, path: Path, umask: int) -> None:
        old = os.umask(umask)
        try:
            MEMORY.save(path)
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_a_link_is_replaced_and_not_followed(self, path: Path, tmp_path: Path) -> None:
        target = tmp_path / "target"
        target.write_text("precious")
        path.symlink_to(target)
        MEMORY.save(path)
        assert target.read_text() == "precious"
        assert not path.is_symlink()
        assert Memory.load(path) == MEMORY

    def test_a_file_that_is_there_is_replaced(self, kept: Path) -> None:
        other = make_memory({"other": (1, 1)})
        other.save(kept)
        assert Memory.load(kept) == other

    def test_what_fails_leaves_what_was_there(self, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(memory_files.os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            make_memory({"other": (1, 1)}).save(kept)
        assert [file.name for file in kept.parent.iterdir()] == [kept.name]
        monkeypatch.undo()
        assert Memory.load(kept) == MEMORY

    def test_a_folder_that_is_missing_is_an_os_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            MEMORY.save(tmp_path / "missing" / "memory.safetensors")
        (tmp_path / "folder").mkdir()
        with pytest.raises(IsADirectoryError):
            MEMORY.save(tmp_path / "folder")
        assert [file.name for file in tmp_path.iterdir()] == ["folder"]

    @pytest.mark.parametrize("name", ["missing/memory", "file/memory", "", "with\0nothing"])
    def test_an_os_error_names_the_path_that_was_given(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match=r".") as caught:
            MEMORY.save(str(tmp_path / name) if name else "")
        assert caught.value.filename == str(Path(tmp_path / name if name else ""))

    def test_texts_that_no_reader_takes_are_refused(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory_files, "_MAX_HEADER_BYTES", 1000)
        with pytest.raises(SegmentError, match="1000 bytes"):
            MEMORY.save(path)
        assert not path.exists()


class TestDamage:
    def test_every_flipped_byte_is_noticed(self, path: Path) -> None:
        make_memory({"a": (1, 1)}).save(path)
        content = path.read_bytes()
        for index in range(len(content)):
            path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
            refusal(path)

    @ONCE
    @given(st.data())
    def test_any_other_byte_anywhere_is_noticed(self, kept: Path, data: st.DataObject) -> None:
        content = bytearray(kept.read_bytes())
        before = bytes(content)
        for index in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[index] = data.draw(st.integers(0, 255))
        damaged = kept.with_name("damaged")
        damaged.write_bytes(content)
        if content != before:
            refusal(damaged)

    @ONCE
    @given(st.integers(0, 10_000), st.binary(max_size=9))
    def test_cut_short_or_too_long(self, kept: Path, length: int, more: bytes) -> None:
        content = kept.read_bytes()
        changed = content[:length] + more if length < len(content) else content + more
        damaged = kept.with_name("damaged")
        damaged.write_bytes(changed)
        if changed != content:
            refusal(damaged)

    def test_the_line_says_so(self, kept: Path) -> None:
        kept.write_bytes(kept.read_bytes()[:-1])
        assert "altered or cut short" in refusal(kept)


class TestOtherFiles:
    def test_missing_ones_and_folders(self, tmp_path: Path) -> None:
        assert "no such file" in refusal(tmp_path / "missing.safetensors")
        assert "directory" in refusal(tmp_path)
        assert "null byte" in refusal(tmp_path / "a\0b")

    def test_a_pipe_is_not_waited_for(self, path: Path) -> None:
        os.mkfifo(path)
        assert "it is not a regular file" in refusal(path)

    @pytest.mark.parametrize("content", [b"", b"x", b"not safetensors at all", bytes(100)])
    def test_of_another_format(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        assert "not a safetensors file" in refusal(path)

    @pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"memory": "{}"}])
    def test_safetensors_of_something_else(self, path: Path, metadata: dict[str, str] | None) -> None:
        save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
        assert "not of working memory" in refusal(path)

    def test_a_newer_version(self, kept: Path) -> None:
        kept.write_bytes(kept.read_bytes().replace(b'"latentmas_memory":"3"', b'"latentmas_memory":"4"', 1))
        assert "version 4, and this program reads versions 1, 2 and 3" in refusal(kept)

    def test_version_1_is_read(self, kept: Path) -> None:
        def as_it_was(meta: dict[str, Any], _: dict[str, Tensor]) -> None:
            names = ("architecture", "num_layers", "num_kv_heads", "head_dim", "hidden_size", "dtype")
            meta["spec"] = {name: getattr(SPEC, name) for name in (*names, "weights_revision")}
            meta["spec"]["rope"] = {"kind": SPEC.rope.kind, "inv_freq": list(SPEC.rope.inv_freq)}
            for agent in meta["agents"].values():
                del agent["kept"]

        forge(kept, as_it_was, version="1")
        assert Memory.load(kept) == MEMORY


def _with_keys(**fields: object) -> dict[str, Any]:
    """The header of a model whose keys are otherwise."""
    header = SPEC.to_header()
    header["layer_kinds"][0][0].update(fields)
    return header


def _set(*keys: str, to: object) -> Callable[[dict[str, Any], dict[str, Tensor]], object]:
    def change(meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        inner: Any = meta
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to

    return change


def _drop(name: str) -> Callable[[dict[str, Any], dict[str, Tensor]], object]:
    return lambda meta, tensors: [tensors.pop(name)]


class TestForgeries:
    """Files whose digest is right, and whose content is not."""

    def test_the_forger_himself(self, kept: Path) -> None:
        forge(kept, lambda meta, tensors: None)
        assert Memory.load(kept) == MEMORY

    @pytest.mark.parametrize(
        "change",
        [
            _set("reads", to=["nobody"]),
            _set("reads", to=[]),
            _set("reads", to="refiner"),
            _set("agents", "planner", "reads", to=["refiner"]),
            _set("agents", "planner", "num_tokens", to=6),
            _set("agents", "planner", "num_tokens", to=2**62),
            _set("agents", "planner", "turn_length", to=-1),
            _set("agents", "planner", "turn_start", to=2**40),
            _set("agents", "planner", "turn_start", to=1.5),
            _set("agents", "planner", "offset", to=1),
            _set("agents", "planner", to=None),
            _set("agents", to={}),
            _set("agents", to=[]),
            _set("spec", to=None),
            _set("spec", to=[]),
            _set("spec", to={**SPEC.to_header(), "layers": [[0, 2**31 - 1]]}),
            _set("spec", to=_with_keys(head_dim=10**4000)),
            _set("spec", to={**SPEC.to_header(), "dtype": "int4"}),
            _set("spec", to=_with_keys(rope={"kind": "default", "inv_freq": [float("nan")]})),
            _set("agents", "planner", "kept", to=[[[[[0, 5]]], 3]]),
            _set("spec", to={**SPEC.to_header(), "shard": {"rank": 0, "of": 2}}),
            _set("has_kv", to="yes"),
            _set("has_kv", to=False),
            _set("texts", to={"judge": 1}),
            _set("texts", to={"a\nb": ""}),
            _set("texts", to=[]),
            _set("model", to=1),
            _set("question", to=None),
            _drop("planner.kv"),
            _drop("planner.latents"),
            _drop("critic.token_ids"),
            lambda meta, tensors: tensors.update({"planner.more": torch.zeros(1)}),
            lambda meta, tensors: tensors.update({"planner.kv": torch.zeros(2, 2, 2, 4, 4)}),
            lambda meta, tensors: tensors.update({"planner.kv": torch.zeros(2, 2, 2, 5, 4, dtype=torch.bfloat16)}),
            lambda meta, tensors: tensors.update({"planner.token_ids": torch.tensor([1, 2, 3, -1, -7])}),
            lambda meta, tensors: tensors.update({"planner.token_ids": torch.zeros(5)}),
            lambda meta, tensors: "[" * 100_000,
            lambda meta, tensors: '{"model": ' * 100_000,
            lambda meta, tensors: "null",
            lambda meta, tensors: "1" * 10_000,
            lambda meta, tensors: "",
        ],
    )
    def test_metadata_and_tensors_contradict_each_other(
        self, kept: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]
    ) -> None:
        forge(kept, change)
        assert "contradicts itself" in refusal(kept)

    def test_sizes_without_bytes_are_not_believed(self, path: Path) -> None:
        MEMORY.save(path, kv=False)
        for keys, value in (("num_tokens", 2**31 - 1), ("turn_length", 2**31 - 1), ("offset", 2**31 - 1)):
            forge(path, _set("agents", "planner", keys, to=value))
            refusal(path)
            MEMORY.save(path, kv=False)
        forge(path, _set("spec", to={**SPEC.to_header(), "hidden_size": 2**31 - 1}))
        refusal(path)

    def test_trees_that_no_reader_could_walk(self, path: Path) -> None:
        names = [f"{side}{level}" for level in range(40) for side in "ab"]
        reads = {name: [f"{side}{int(name[1:]) - 1}" for side in "ab"] for name in names[2:]}
        make_memory(dict.fromkeys(names[:4], (0, 0)), reads={name: reads[name] for name in names[2:4]}).save(path)

        def grow(meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
            for name in names[4:]:
                meta["agents"][name] = {**meta["agents"]["a1"], "reads": reads[name]}
                for kind in ("kv", "token_ids", "latents"):
                    tensors[f"{name}.{kind}"] = tensors[f"a1.{kind}"]
            meta["reads"] = names[-2:]

        forge(path, grow)
        assert "too many other agents" in refusal(path)
