"""The engine's benchmark, as small as it gets: that it measures, not what."""

import json

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.engine.settings import EngineBenchSettings
from benchmarks.engine.sides import SIDES, serve
from latentmas_ray.errors import RunError

SMALL = ["--model", "tiny", "--dtype", "float32", "--latent-steps", "2", "--max-new-tokens", "3", "--repeats", "1"]


def test_both_sides_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", *SMALL, "--prompt-tokens", "16", "--batch-size", "1,3", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert [batch["batch_size"] for batch in outcome["batches"]] == [1, 3]
    for batch in outcome["batches"]:
        for side in ("engine", "baseline"):
            assert batch[side]["seconds"] > 0
            assert all(batch[side]["phases"][phase] > 0 for phase in ("prefill", "think", "decode"))
            assert batch[side]["extra_bytes"] > 0
        assert batch["speedup"] == pytest.approx(batch["baseline"]["seconds"] / batch["engine"]["seconds"])


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--batch-size", "1,x"], "--batch-size: got '1,x'"),
        (["--batch-size", "0"], "--batch-size: got '0'"),
        (["--repeats", "0"], "--repeats: got '0'"),
        (["--latent-steps", "-1"], "--latent-steps: got '-1'"),
        (["--dtype", "int8"], "--dtype: got 'int8'"),
        (["--device", "gpu"], "--device: got 'gpu'; it must be auto, cpu, cuda or cuda:N"),
        (["--device", ""], "--device: got ''"),
        (["--model", "./nowhere"], "--model: got './nowhere'"),
        (["--repeats", "many"], "--repeats"),
    ],
)
def test_bad_flags_are_told_in_one_line(flags: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line


@pytest.mark.parametrize("model", ["qwen3-0.6b", "tiny"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_here_is_told_in_one_line(
    model: str, device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["engine", "--model", model, "--device", device]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: --device: got '{device}'; this machine has no CUDA device; use auto or cpu"


def test_a_side_that_fails_sends_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\n  Tried to allocate a lot")

    class Sent(list[object]):
        send = list.append

    sent = Sent()
    monkeypatch.setitem(SIDES, "engine", out_of_memory)
    serve("engine", EngineBenchSettings(model="tiny"), sent)  # type: ignore[arg-type]
    (error,) = sent
    assert isinstance(error, RunError)
    assert str(error) == "the engine side of the benchmark failed: OutOfMemoryError: CUDA out of memory."
