"""The recorded runs, token for token, through the command line.

With their random weights a rounding difference grows about 1.5 times with each of the 36 latent steps, and matrix
products round differently from one kind of CPU to the next. `SAME_ROUNDING` makes every x86 CPU round alike: AVX2 in
torch's own kernels, MKL's compatible path, one thread. Ray's workers inherit it from the process that starts Ray. Those
settings are read when torch is imported, so the runs have a process of their own, which is one for all of them.
`test_command_address.py` repeats a case on the actors of a cluster.
"""

import json
import platform
import sys
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.ray.command_cases import ROOT, TIMEOUT_SECONDS, read_rows, started

GOLDEN = ROOT / "tests" / "golden"
SAME_ROUNDING = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",
    "OMP_NUM_THREADS": "1",
    "LATENTMAS_TORCH_THREADS": "1",
}
FLAGS = ["--temperature", "0", "--latent-steps", "12", "--max-new-tokens", "24", "--dtype", "float32"]
SWITCHES = {"realign": "--realign", "identity": "--no-realign"}

VARIANTS = {
    **{f"batches of {size}": ["--batch-size", size] for size in ("1", "3")},
    "recipes": ["--batch-size", "1", "--transfer", "recompute"],
}
RUN_ALL = """
import json, sys
from latentmas_ray.cli.main import main
for arguments in json.loads(sys.argv[1]):
    assert main(arguments) == 0, arguments
"""

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the recorded runs can be repeated on x86 only"),
    pytest.mark.slow,  # the same runs without the command: `tests/numerics/test_golden.py`
]


def golden_command(case: str, output: Path, *flags: str, model: Path | str = GOLDEN / "model") -> list[str]:
    """The command that repeats a recorded case; also used where a cluster is joined."""
    files = ["--task", GOLDEN / "questions.jsonl", "--topology", GOLDEN / "topology.yaml", "--model", model]
    return ["eval", *map(str, files), *FLAGS, SWITCHES[case], "--output", str(output), *flags]


def golden_rows(case: str, output: Path) -> list[dict[str, Any]]:
    """The rows of a repeated case, which must be those that were recorded."""
    rows = read_rows(output)
    recorded = json.loads((GOLDEN / "expected.json").read_text())[case]["results"]
    assert [row["question"] for row in rows] == [result["question"] for result in recorded]
    assert [row["answer_token_ids"] for row in rows] == [result["answer_token_ids"] for result in recorded]
    for row, result in zip(rows, recorded, strict=True):
        *readers, answering = row["tokens"]["agents"].values()
        assert list(accumulate(use["prompt"] + use["latent"] for use in readers)) == result["memory_lengths"]
        assert answering["prompt"] == result["prompt_tokens"]
    return rows


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The output folders of every case in every variant."""
    folder = tmp_path_factory.mktemp("golden")
    outputs = {(case, name): folder / f"{case} {name}" for case in SWITCHES for name in VARIANTS}
    commands = [
        golden_command(case, output, "--runtime", "local", *VARIANTS[name]) for (case, name), output in outputs.items()
    ]
    with started([sys.executable, "-c", RUN_ALL, json.dumps(commands)], SAME_ROUNDING) as process:
        _, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, err
    return outputs


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("case", SWITCHES)
def test_in_one_process(outputs: dict[tuple[str, str], Path], case: str, name: str) -> None:
    rows = golden_rows(case, outputs[case, name])
    assert {transfer["mode"] for row in rows for transfer in row["transfers"]} == {
        "recompute" if name == "recipes" else "kv"
    }
