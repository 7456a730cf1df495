"""Nothing outside can be reached by a program: each attack is tried as root (where the tests are root) and as a user
without privilege."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.unit.sandbox.attacks import ATTACKS, MEMORY, job_of
from tests.unit.sandbox.programs import GIVEN, programs

OTHER_USER = 65534
RUNNER = Path(__file__).with_name("as_user.py")
JOBS = {
    "attacks": {name: job_of(attacks) for name, attacks in ATTACKS.items()},
    "memory": MEMORY,
    "forgeries": {
        name: {"program": program, "tests": tests, "given": GIVEN}
        for name, (program, tests) in programs("forgeries.txt").items()
    },
}
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
    return {"user": OTHER_USER, "group": OTHER_USER, "extra_groups": []}


@cache
def outcomes(user: str, kind: str, means: str = "all") -> dict[str, dict[str, object]]:
    """Run all jobs of a kind as this user, in one process."""
    path = interpreter(user)
    if path is None:
        pytest.skip("no Python here that another user can run")
    done = subprocess.run(
        [path, "-I", str(RUNNER), means],
        input=json.dumps(JOBS[kind]),
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
@pytest.mark.parametrize("group", ATTACKS)
def test_each_attack_is_refused(user: str, group: str) -> None:
    outcome = outcomes(user, "attacks")[group]
    assert outcome["passed"], outcome["reason"]


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not here")
@pytest.mark.parametrize("group", ATTACKS)
def test_each_attack_is_refused_where_only_bubblewrap_makes_namespaces(group: str) -> None:
    outcome = outcomes("user", "attacks", "bubblewrap")[group]
    assert outcome["passed"], outcome["reason"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("group", [group for group in ATTACKS if group != "files"])
def test_each_attack_is_refused_without_namespaces(user: str, group: str) -> None:
    outcome = outcomes(user, "attacks", "landlock")[group]
    assert outcome["passed"], outcome["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", MEMORY)
def test_memory_has_one_bound(user: str, name: str) -> None:
    outcome = outcomes(user, "memory")[name]
    assert not outcome["passed"]
    assert any(word in str(outcome["reason"]) for word in ("memory", "Memory", "OSError")), outcome["reason"]


@pytest.mark.slow
def test_a_user_does_not_forge_a_pass_either() -> None:
    done = outcomes("user", "forgeries")
    assert [name for name, outcome in done.items() if outcome["passed"]] == []
