"""The recorded runs, token for token, through the command line.

With their random weights a rounding difference grows about 1.5 times with each of the 36 latent steps, and matrix
products round differently from one kind of CPU to the next. `SAME_ROUNDING` makes every x86 CPU round alike: AVX2 in
torch's own kernels, MKL's compatible path, one thread. Ray's workers inherit it from the process that starts Ray.
"""

import json
import platform
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.ray.command_cases import ROOT, read_rows, run_command

GOLDEN = ROOT / "tests" / "golden"
SAME_ROUNDING = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "LATENTMAS_TORCH_THREADS": "1",
}
FLAGS = ["--temperature", "0", "--latent-steps", "12", "--max-new-tokens", "24", "--dtype", "float32"]
SWITCHES = {"realign": "--realign", "identity": "--no-realign"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the recorded runs can be repeated on x86 only"),
]


def check_golden(case: str, output: Path, *flags: str, **environment: str) -> list[dict[str, Any]]:
    """Repeat a recorded case; returns its rows. Also used where a cluster is joined."""
    files = ["--task", GOLDEN / "questions.jsonl", "--topology", GOLDEN / "topology.yaml", "--model", GOLDEN / "model"]
    more = SAME_ROUNDING | environment
    done = run_command("eval", *files, *FLAGS, SWITCHES[case], "--output", output, *flags, more=more)
    assert done.returncode == 0, done.stderr
    rows = read_rows(output)
    recorded = json.loads((GOLDEN / "expected.json").read_text())[case]["results"]
    assert [row["question"] for row in rows] == [result["question"] for result in recorded]
    assert [row["answer_token_ids"] for row in rows] == [result["answer_token_ids"] for result in recorded]
    for row, result in zip(rows, recorded, strict=True):
        *readers, answering = row["tokens"]["agents"].values()
        assert list(accumulate(use["prompt"] + use["latent"] for use in readers)) == result["memory_lengths"]
        assert answering["prompt"] == result["prompt_tokens"]
    return rows


@pytest.mark.parametrize("batch_size", ["1", "3"])
@pytest.mark.parametrize("case", SWITCHES)
def test_in_one_process(tmp_path: Path, case: str, batch_size: str) -> None:
    check_golden(case, tmp_path / "run", "--runtime", "local", "--batch-size", batch_size)


def test_on_actors(tmp_path: Path) -> None:
    rows = check_golden("realign", tmp_path / "run", "--runtime", "ray", "--batch-size", "1")
    assert {transfer["transport"] for row in rows for transfer in row["transfers"]} == {"shared_memory"}


@pytest.mark.parametrize("case", SWITCHES)
def test_recipes_give_the_same_answers(tmp_path: Path, case: str) -> None:
    rows = check_golden(case, tmp_path / "run", "--runtime", "local", "--batch-size", "1", "--handover", "recipe")
    assert {transfer["handover"] for row in rows for transfer in row["transfers"]} == {"recipe"}
