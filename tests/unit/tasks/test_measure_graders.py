"""The script that grades reference solutions: it counts the right ones and names the wrong ones."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_right_solutions_are_counted_and_wrong_ones_named(tmp_path: Path) -> None:
    function = {"kind": "code", "prompt": "def one():\n", "entry_point": "one"}
    check = "def check(candidate):\n    assert candidate() == 1\n"
    records = [
        {"id": "a", "question": "1 + 1?", "gold": "2", "kind": "number", "solution": "1 + 1 = 2\n#### 2"},
        {"id": "b", **function, "test": check, "canonical_solution": "    return 1\n"},
        {"id": "c", **function, "test": check, "canonical_solution": "    return 2\n"},
        {"id": "d", "kind": "code", "prompt": "One.", "test": "assert one() == 1", "code": "def one(): return 1"},
        {"id": "e", "question": "2 + 2?", "gold": "4", "kind": "number"},
    ]
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps(record) + "\n" for record in records))
    done = subprocess.run(
        [sys.executable, ROOT / "jobs/measure_graders.py", task], capture_output=True, text=True, check=True
    )
    first, *wrong = done.stdout.splitlines()
    assert first.startswith(f"{task}: 3 of 5 right, ")
    assert [line.split(":")[0].strip() for line in wrong] == ["c", "e"]
