"""Files of questions for tests, and records with options."""

import gzip
import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]
STONES = ["granite", "chalk", "slate", "basalt"]
TREES = ["oak", "yew", "elm", "fir"]
BIRDS = ["wren", "rook", "swift"]


def asked(number: int, **fields: Any) -> Record:
    """A record about one of some options."""
    return {"id": f"q{number}", "question": f"Which one of set {number}?", **fields}


def write(folder: Path, *records: Record | str, name: str = "q.jsonl") -> str:
    """Write records, or lines as they are, to a file; return its path."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    data = "".join(line + "\n" for line in lines).encode()
    path = folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)
