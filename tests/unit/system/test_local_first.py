"""What is missing on this machine is reported before the hub is queried."""

import os
from pathlib import Path

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.errors import ModelError
from latentmas_ray.models.names import check_name

HUB_ID = "nobody/nothing"


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What the hub was asked for. It is not there."""
    asked: list[str] = []

    def model_info(self: object, name: str, **more: object) -> None:
        asked.append(name)
        raise OSError("no hub here")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.chdir(tmp_path)
    return asked


PATHS = (
    "./x",
    "../x",
    "./nobody/nothing",
    "/abs/model",
    "~/no-such-model",
    "models/of/mine",
    "models/",
    "nobody/nothing/",
    "C:\\models\\mine",
    "file:///models/mine",
    "model.safetensors",
    "models/mine.gguf",
    "pytorch_model.bin",
    "config.json",
    "my model",
    "modell ü",
    "x" * 120,
    "a/" + "b" * 100,
)


@pytest.mark.parametrize("name", PATHS)
def test_a_name_that_is_no_hub_id_is_not_looked_up(name: str, hub: list[str]) -> None:
    with pytest.raises(
        ModelError, match="there is no such folder; give tiny, small, tiny-latent, a model folder or a hub id"
    ):
        check_name(name)
    assert hub == []


def test_a_link_to_nothing_is_no_hub_id(hub: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to("away")
    with pytest.raises(ModelError, match="there is no such folder"):
        check_name("mine")
    assert hub == []


@pytest.mark.parametrize("name", ["gpt-none", HUB_ID, "Qwen/Qwen3-0.6B-none", "a.b_c/d-e.f", "nobody/3.5.b"])
def test_a_hub_id_is_looked_up(name: str, hub: list[str]) -> None:
    with pytest.raises(ModelError, match="hub"):
        check_name(name)
    assert hub == [name]


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["eval", "--task", "missing.jsonl"], "--task"),
        (["eval", "--task", "/abs/missing.jsonl.gz"], "--task"),
        (["eval", "--task", "./x"], "--task"),
        (["eval", "--task", "x/y/z"], "--task"),
        (["eval", "--task", "homework"], "--task"),
        (["eval", "--topology", "missing.yaml"], "--topology"),
        (["ask", "2+2?", "--from-memory", "missing.safetensors"], "--from-memory"),
        (["ask", "2+2?", "--topology", "./missing.yaml"], "--topology"),
    ],
)
def test_a_missing_file_is_told_before_the_model_is_looked_up(
    args: list[str], named: str, hub: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*args, "--model", HUB_ID, "--runtime", "local"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith(f"error: {named}: got ")
    assert hub == []


@pytest.mark.parametrize("results", ["missing.jsonl", "/abs/results.jsonl", ".", "a/b/c", "x" * 300])
def test_a_missing_results_file_is_told_before_the_task_is_downloaded(
    results: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("latentmas_ray.tasks.files.hub_records", lambda *_: pytest.fail("the hub was asked"))
    assert main(["grade", "--task", "gsm8k", "--results", results]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("error: --results: got ")


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "chat_template.jinja"])
def test_a_pipe_in_a_model_folder_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "model" / name)
    with pytest.raises(ModelError, match=f"its files must be regular ones; {name} is a named pipe"):
        check_name("./model")


@pytest.mark.parametrize("content", [None, "[" * 100_000, "[1]", "{", '{"hidden_size": NaN}'])
def test_a_plan_is_not_made_of_a_damaged_configuration(
    content: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "config.json"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_text(content)
    assert main(["plan", "--model", str(tmp_path / "model")]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
