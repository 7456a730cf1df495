"""Nothing outside can be reached by a program: each attack is tried as root (where the tests are root) and as a user
without privilege. A program's `attempt` returns "refused", or what it got."""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.unit.sandbox.attacks import ATTACKS, MEMORY

NOBODY = 65534
RUNNER = Path(__file__).with_name("as_user.py")
USERS = ["root", "user"] if os.geteuid() == 0 else ["user"]


def interpreter(user: str) -> str | None:
    """A Python that this user can run: the one of the tests, or the system's."""
    for path in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if path is None:
            continue
        check = [path, "-I", "-c", "import sys; assert sys.version_info >= (3, 11)"]
        with contextlib.suppress(OSError):
            if subprocess.run(check, capture_output=True, cwd="/", **as_user(user)).returncode == 0:  # type: ignore[call-overload]
                return path
    return None


def as_user(user: str) -> dict[str, object]:
    if user == "root" or os.geteuid():
        return {}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


@cache
def outcomes(user: str) -> dict[str, dict[str, object]]:
    """Run all attacks as this user, in one process."""
    path = interpreter(user)
    if path is None:
        pytest.skip("no Python here that another user can run")
    jobs = {**ATTACKS, **MEMORY}
    done = subprocess.run(
        [path, "-I", str(RUNNER)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        **as_user(user),  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    if answer["obstacle"]:
        pytest.skip(f"no sandbox here: {answer['obstacle']}")
    return answer["outcomes"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_is_refused(user: str, name: str) -> None:
    if "x86" in name and platform.machine() != "x86_64":
        pytest.skip("another architecture")
    outcome = outcomes(user)[name]
    assert outcome["passed"], outcome["reason"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", MEMORY)
def test_memory_has_one_bound(user: str, name: str) -> None:
    outcome = outcomes(user)[name]
    assert not outcome["passed"]
    assert "memory" in str(outcome["reason"]).lower() or "OSError" in str(outcome["reason"]), outcome["reason"]
