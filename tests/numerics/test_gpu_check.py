"""`jobs/gpu_check.py` on the CPU, as far as it goes there: what works, what is left out, and what fails."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

from tests.architecture.source import ROOT

SMALL = ["--questions", "2", "--latent-steps", "2", "--max-new-tokens", "9"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "jobs" / "gpu_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *flags])
    code: int = script.main()
    return code


def test_what_needs_no_gpu_works_on_the_cpu(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "obstacle", lambda: "vLLM is not installed")
    chosen = ["machine", "engine", "batches", "merged", "continuous", "vllm", "speed"]
    assert run(script, monkeypatch, "--device", "cpu", *SMALL, "--only", *chosen) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "nothing failed"
    found = [line.partition(":")[0].rsplit(maxsplit=1) for line in lines]
    assert found == [
        ["works", "machine"],
        ["works", "engine"],
        ["works", "batches"],
        ["works", "merged"],
        ["works", "continuous"],
        ["left out", "vllm"],
        ["left out", "speed"],
    ]
    assert "2 of 2 answers are the CPU's" in lines[1]
    assert "2 of 2 texts are those of static batches" in lines[4]
    assert "vLLM is not installed" in lines[5]


def test_other_answers_and_errors_are_failures(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answers(given: Any, **fields: Any) -> dict[str, tuple[int, ...]]:
        return {"a": (1, 2), "b": (3,) if fields.get("device") == "cpu" else (4,)}

    monkeypatch.setattr(script, "answers", answers)
    assert run(script, monkeypatch, "--only", "engine") == 1
    line, last = capsys.readouterr().out.splitlines()
    assert line.startswith("FAILED    engine: DifferenceError: 1 of 2 answers are the CPU's")
    assert last == "1 failed: engine"
    with pytest.raises(script.DifferenceError, match="0 of 0"):
        script.equal({}, {}, "the CPU's")


def test_a_machine_without_a_gpu_is_told(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.torch.cuda, "is_available", lambda: False)
    assert run(script, monkeypatch, "--only", "machine") == 1
    assert "this machine has no CUDA device; use auto or cpu" in capsys.readouterr().out
