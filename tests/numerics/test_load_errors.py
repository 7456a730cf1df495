"""Whatever is wrong with a model's files is told in one line, and loading prints nothing else."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentmas_ray.cli.main import main
from latentmas_ray.errors import ModelError
from latentmas_ray.models import check_name, load_model
from latentmas_ray.models.presets import tiny_model, tiny_tokenizer

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "intact"
    tiny_model(torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "model"))


def configure(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


def without(path: Path, name: str) -> None:
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items() if key != name}
    save_file(tensors, path, metadata={"format": "pt"})


def remove_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "config cut": (lambda f: cut(f / "config.json", 40), "JSON"),
    "config garbage": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"), "model folder"),
    "config a list": (lambda f: (f / "config.json").write_text("[1]"), "model_type"),
    "config empty": (lambda f: (f / "config.json").write_text("{}"), "model_type"),
    "unknown kind": (lambda f: configure(f, model_type="nonsense"), "nonsense"),
    "wrong type": (lambda f: configure(f, hidden_size="wide"), "hidden_size"),
    "no heads": (lambda f: configure(f, num_attention_heads=0), "model: got"),
    "more layers": (lambda f: configure(f, num_hidden_layers=5, layer_types=None), "11 are missing"),
    "other shapes": (lambda f: configure(f, hidden_size=64), r"is \(\d+.*not \("),
    "other vocabulary": (lambda f: configure(f, vocab_size=100), "shapes of its configuration"),
    "encoder-decoder": (lambda f: configure(f, model_type="t5"), "decoder-only"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    "weights cut": (lambda f: cut(f / "model.safetensors", 1000), "weights must load"),
    "weights cut at the end": (lambda f: cut(f / "model.safetensors", -4), "weights must load"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "weights must load"),
    "a weight less": (lambda f: without(f / "model.safetensors", "lm_head.weight"), "like lm_head.weight"),
    "no tokenizer": (remove_tokenizer, "tokenizer must be there"),
    "tokenizer garbage": (lambda f: (f / "tokenizer.json").write_text("garbage"), "tokenizer must load"),
    "tokenizer empty": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer must load"),
    "tokenizer config": (lambda f: (f / "tokenizer_config.json").write_text("{"), "tokenizer must load"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_folder_is_told_in_one_line(case: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage, reason = DAMAGES[case]
    damage(folder)
    capfd.readouterr()
    with pytest.raises(ModelError, match=reason) as caught:
        load_model(str(folder))
    line = str(caught.value)
    assert str(folder)[:60] in line
    assert "\n" not in line
    assert len(line) < 500
    assert capfd.readouterr() == ("", "")


# What the doctor, who reads no weights, says in other words: exit code, and text.
OF_THE_DOCTOR = {
    "no heads": (1, "num_attention_heads is 0"),
    "encoder-decoder": (1, "decoder-only"),
    "other vocabulary": (2, "its tokenizer must fit"),
    "no weights": (0, "none in this folder"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_the_doctor_tells_a_damaged_folder(case: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damage, reason = DAMAGES[case]
    damage(folder)
    capfd.readouterr()
    code, reason = OF_THE_DOCTOR.get(case, (2, reason))
    assert main(["doctor", "--json", "--model", str(folder)]) == code
    out, err = capfd.readouterr()
    if code == 2:
        assert out == ""
        assert re.search(reason, err)
        assert err.startswith("error: --model: got ")
        assert err.count("\n") == 1
    else:
        said = json.loads(out)
        assert said["works"] is (code == 0)
        assert reason in (said["weights"] if code == 0 else said["reason"])
        assert err == ""


NAMES = {
    "missing folder": ("./nowhere", "no such folder"),
    "absolute": ("/nowhere/model", "no such folder"),
    "the home of an unknown user": ("~no-such-user/model", "there is no user"),
    "a file": (__file__, "a folder"),
    "empty": ("", "config.json"),
    "hub id that is not here": ("nobody/no-such-model", "hub"),
    "not even a hub id": ("no such model!", "hub id"),
    "too long for a file name": ("x" * 400, "hub id"),
    "zero byte": ("a\0b", "hub id"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_that_are_no_model_are_told_before_anything_is_loaded(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name, reason = NAMES[case]
    for look in (check_name, load_model):
        with pytest.raises(ModelError, match=reason) as caught:
            look(name)
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_name_is_checked_for_what_its_configuration_rules_out(folder: Path) -> None:
    configure(folder, layer_types=["compressed_sparse_attention"] * 4)
    with pytest.raises(ModelError, match="compressed_sparse_attention"):
        check_name(str(folder))


def test_a_good_folder_loads_quietly(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check_name(str(folder))
    lm = load_model(str(folder))
    assert (
        lm.spec.weights_revision
        == load_model(str(folder)).spec.weights_revision
        != load_model("tiny").spec.weights_revision
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("is_tiny", [True, False])
def test_the_dtype_is_what_was_asked_for(dtype: str, is_tiny: bool, intact: Path) -> None:
    lm = load_model("tiny" if is_tiny else str(intact), dtype=dtype)
    stored = "bfloat16" if is_tiny else "float32"
    assert lm.spec.dtype == (stored if dtype == "auto" else dtype)
    assert lm.model.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_here_is_told(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="no CUDA device"):
        load_model("tiny", device=device)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:x", "meta", "npu"])
def test_other_devices_are_told(device: str) -> None:
    with pytest.raises(ModelError, match="auto, cpu, cuda or cuda:N"):
        load_model("tiny", device=device)


def test_a_base_model_is_told_about(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "chat_template.jinja").unlink()
    with caplog.at_level(logging.WARNING):
        load_model(str(folder))
    assert "no chat template" in caplog.text


def test_an_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(_: object, name: str, *, timeout: float, revision: str | None) -> None:
        asked.append((name, timeout))
        raise OSError("nobody there")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(ModelError, match="the hub cannot be reached: nobody there"):
        check_name("nobody/no-such-model")
    assert [name for name, _ in asked] == ["nobody/no-such-model"]
