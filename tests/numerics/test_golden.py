"""The published implementation's recorded runs, through this package's turns (tests/golden/README.md).

The recorded model is numerically chaotic: two correct programs whose matrix products round differently are 1e-5 apart
after a prompt, about 1.5 times further after each of 36 latent steps, and at the end one question in six may get
another token, in fp64 as well. So the chain runs in a process of its own whose products round alike on every x86 CPU.
There all tokens must match, at batch 1 and 3; the KV must match as long as rounding alone cannot move it by 1e-3,
which is the first agent's prompt and its first thoughts.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.golden.replay import AVX2, CASES

ROOT = Path(__file__).parents[2]
NUM_THOUGHTS = 5  # of 12; the measured maximum over them is 1e-4, over six 4e-4
CASE_KEYS = [(case, size) for case in CASES for size in (1, 3)]

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the recorded tokens need the rounding of x86 CPUs"
)


@pytest.fixture(scope="module")
def entries() -> dict[tuple[str, int], list[dict[str, Any]]]:
    environment = {**os.environ, **AVX2, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tests" / "golden" / "replay.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    everything = json.loads(done.stdout)
    return {key: [one for one in everything if (one["case"], one["batch_size"]) == key] for key in CASE_KEYS}


@pytest.mark.parametrize("key", CASE_KEYS, ids=str)
def test_answers_match_token_for_token(key: tuple[str, int], entries: dict[tuple[str, int], list[Any]]) -> None:
    assert len(entries[key]) == 3
    for entry in entries[key]:
        assert entry["answer"] == entry["recorded_answer"], f"question {entry['question']}"


@pytest.mark.parametrize("key", CASE_KEYS, ids=str)
def test_memories_have_the_recorded_lengths(key: tuple[str, int], entries: dict[tuple[str, int], list[Any]]) -> None:
    for entry in entries[key]:
        assert entry["memory_lengths"] == entry["recorded_memory_lengths"]


@pytest.mark.parametrize("key", CASE_KEYS, ids=str)
def test_the_kv_is_the_recorded_one(key: tuple[str, int], entries: dict[tuple[str, int], list[Any]]) -> None:
    for entry in entries[key]:
        assert entry["kv"]["prompt"] <= 1e-4
        assert max(entry["kv"]["thoughts"][:NUM_THOUGHTS]) <= 1e-3
