"""Python files that come with a model are never run, whatever is on standard input, and nothing is asked."""

import io
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latentmas_ray.cli.main import main
from latentmas_ray.models.names import EMBEDDED_FOLDER

CODE = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
class EvilConfig(PretrainedConfig):
    model_type = "evil"
class EvilModel(PreTrainedModel):
    config_class = EvilConfig
class EvilTokenizer(PreTrainedTokenizerFast):
    pass
"""
MAPS = {
    "configuration": {"model_type": "evil", "auto_map": {"AutoConfig": "modeling_evil.EvilConfig"}},
    "configuration and model": {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "modeling_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.EvilModel"},
    },
    "model alone": {"auto_map": {"AutoModelForCausalLM": "modeling_evil.EvilModel"}},
    "configuration of a known kind": {"auto_map": {"AutoConfig": "modeling_evil.EvilConfig"}},
    "code of another repository": {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "nobody/evil--modeling_evil.EvilConfig"},
    },
}
ASK = ["ask", "Nadia has 5 beads. Then Nadia finds 3 more. How many beads has Nadia now?", "--runtime", "local"]


def folder_with(path: Path, fields: dict[str, object], tokenizer: dict[str, object] | None = None) -> tuple[Path, Path]:
    """A copy of the embedded model that brings code; and the file that the code would make."""
    shutil.copytree(EMBEDDED_FOLDER, path)
    mark = path.with_name("was-run")
    (path / "modeling_evil.py").write_text(CODE.format(mark=str(mark)))
    for name, changes in (("config.json", fields), ("tokenizer_config.json", tokenizer or {})):
        file = path / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path, mark


@pytest.mark.parametrize("case", MAPS)
def test_code_that_comes_with_a_model_is_not_run(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, mark = folder_with(tmp_path / "model", MAPS[case])
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    code = main([*ASK, "--model", str(folder), "--max-new-tokens", "4"])
    out, err = capfd.readouterr()
    assert not mark.exists()
    assert sys.stdin.read() == "y\n" * 50
    if MAPS[case].get("model_type") == "evil":
        assert code == 2
        assert err.count("\n") == 1, err
        assert "never run" in err
    else:  # transformers has code of its own for this kind
        assert code == 0, err
    assert "y/N" not in out + err


def test_the_doctor_and_a_plan_run_no_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, mark = folder_with(tmp_path / "model", MAPS["configuration and model"])
    for command in ("doctor", "plan"):
        assert main([command, "--model", str(folder)]) == (2 if command == "doctor" else 0)
    assert "never run" in capfd.readouterr().err
    assert not mark.exists()


def test_code_that_comes_with_a_tokenizer_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own = {"auto_map": {"AutoTokenizer": [None, "modeling_evil.EvilTokenizer"]}, "tokenizer_class": "EvilTokenizer"}
    folder, mark = folder_with(tmp_path / "model", {}, own)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    main([*ASK, "--model", str(folder), "--max-new-tokens", "4"])
    assert not mark.exists()
    assert "y/N" not in "".join(capfd.readouterr())


class Evil:
    """A pickle of it runs something when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_in_place_of_weights_is_not_loaded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, mark = folder_with(tmp_path / "model", {})
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    assert main([*ASK, "--model", str(folder)]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    assert "a pickle that holds more than tensors, which is never loaded" in err
    assert not mark.exists()


@pytest.mark.slow
def test_a_yes_through_a_pipe_runs_nothing(tmp_path: Path) -> None:
    folder, mark = folder_with(tmp_path / "model", MAPS["configuration and model"])
    command = [sys.executable, "-c", "import sys; from latentmas_ray.cli.main import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, *ASK, "--model", str(folder)], input="y\n" * 50, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert not mark.exists()
