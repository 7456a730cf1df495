"""The sandbox: hostile programs fail, and leave no process and no file."""

import errno
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Timer

import pytest

from latentmas_ray.errors import SandboxError
from latentmas_ray.sandbox import Job, Limits, Outcome, find_confinement, find_obstacle, run_program
from latentmas_ray.sandbox import run as run_module
from latentmas_ray.sandbox.job import MIB

pytestmark = pytest.mark.skipif(find_obstacle() is not None, reason=f"no sandbox here: {find_obstacle()}")

LONG_SECONDS = 90
PATIENCE_SECONDS = 60.0
TESTS = "assert double(4) == 8"
RIGHT = "def double(x):\n    return 2 * x\n"


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The folder in which sandboxes are made during a test. It must be empty at the end."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield
    assert list(place.glob("latentmas-sandbox-*")) == []
    place.rmdir()


def run(program: str, tests: str = TESTS, **limits: float) -> Outcome:
    bounds = {"wall_seconds": 30.0, **limits}
    return run_program(Job(program=program, tests=tests, limits=Limits(**bounds)))  # type: ignore[arg-type]


def processes_called(mark: str) -> list[str]:
    """The processes on this machine with `mark` in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if mark in path.read_text():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_a_right_program_passes_and_a_wrong_one_does_not() -> None:
    assert run(RIGHT) == Outcome(passed=True)
    wrong = run("def double(x):\n    return x * x\n")
    assert not wrong.passed
    assert "AssertionError" in wrong.reason


@pytest.mark.parametrize("refused", ["tempfile.mkdtemp", "subprocess.Popen"])
def test_a_full_machine_gives_a_clear_error(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(refused, refuse)
    with pytest.raises(SandboxError, match="did not start: No space left on device"):
        run(RIGHT)


def test_a_program_may_use_numpy_its_own_files_and_dataclasses() -> None:
    program = """
from __future__ import annotations
from dataclasses import dataclass
import numpy as np

@dataclass
class Box:
    side: float = 2.0

with open("notes.txt", "w") as file:
    file.write("x")

def double(x):
    return int(np.array([x]) @ np.array([Box().side]))
"""
    assert run(program) == Outcome(passed=True)


@pytest.mark.parametrize(
    "early",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "raise SystemExit(0)",
        "raise KeyboardInterrupt",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes; ctypes.string_at(0)",
        "import atexit, os; atexit.register(os._exit, 0); raise SystemExit",
        "def double(x):\n    import os; os._exit(0)",
        "def double(x):\n    raise SystemExit(0)",
        "import os\nif os.fork():\n    os._exit(0)\nimport sys; sys.exit(0)",
        "def (",
        "\0",
    ],
)
def test_exiting_early_does_not_pass(early: str) -> None:
    outcome = run(early)
    assert not outcome.passed
    assert outcome.reason


@pytest.mark.parametrize(
    "forgery",
    [
        "import os\nfor fd in range(64):\n    try:\n        os.write(fd, b'ready\\n' + b'passed\\n' * 9)\n"
        "    except OSError:\n        pass\nos._exit(0)",
        "print('{\"passed\": true}', flush=True)\nimport os; os._exit(0)",
        "import os, sys\nos.write = lambda *a: 1\nos._exit = lambda *a: None\nsys.exit = print\nraise SystemExit",
        "import builtins\nbuiltins.print = builtins.compile = builtins.exec = lambda *a, **k: None\n"
        "builtins.AssertionError = Exception\ndef double(x):\n    return 0",
        "import builtins\nbuiltins.BaseException = builtins.Exception = ZeroDivisionError",
    ],
)
def test_success_cannot_be_forged_by_writing_or_patching(forgery: str) -> None:
    assert not run(forgery).passed


def test_an_endless_loop_is_ended() -> None:
    begin = time.monotonic()
    outcome = run("while True:\n    pass\n", wall_seconds=1.0)
    assert outcome == Outcome(passed=False, reason="it took longer than 1 s")
    assert time.monotonic() - begin < 10


def test_cpu_time_is_bounded() -> None:
    outcome = run("while True:\n    pass\n", cpu_seconds=1, wall_seconds=60.0)
    assert outcome == Outcome(passed=False, reason="it took more than 1 s of processor time")
    stubborn = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass\n"
    assert not run(stubborn, cpu_seconds=1, wall_seconds=60.0).passed


def test_ten_gigabytes_are_refused() -> None:
    outcome = run(f"hoard = bytearray({10 * 2**30})\n{RIGHT}")
    assert not outcome.passed
    assert "MemoryError" in outcome.reason


NUM_FORKS = """
import os, time
made = 0
for _ in range(40):
    try:
        pid = os.fork()
    except OSError:
        break
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    made += 1
def double(x):
    return made
"""


def test_the_number_of_processes_is_bounded() -> None:
    outcome = run(NUM_FORKS, tests="assert double(0) < 4, double(0)", num_processes=4)
    assert outcome == Outcome(passed=True)


def test_a_fork_bomb_fails_and_leaves_nothing() -> None:
    # Bounded twice: by the limit that the test above proves, and by its own count.
    mark = f"bomb{os.getpid() % 10_000}"
    bomb = f"""
import os
import ctypes
ctypes.CDLL(None).prctl(15, b"{mark}", 0, 0, 0)
for _ in range(300):
    try:
        os.fork()
    except OSError:
        pass
while True:
    pass
"""
    assert not run(bomb, wall_seconds=1.0, num_processes=4).passed
    assert processes_called(mark) == []


def test_a_process_that_leaves_its_group_is_ended_too() -> None:
    mark = f"stray{os.getpid() % 10_000}"
    program = f"""
import ctypes, os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        ctypes.CDLL(None).prctl(15, b"{mark}", 0, 0, 0)
        time.sleep(60)
    os._exit(0)
time.sleep(0.3)
{RIGHT}"""
    assert run(program).passed
    assert processes_called(mark) == []


@pytest.mark.parametrize("way", ["open({0!r}, 'w')", "import os; os.mkdir({0!r})", "import os; os.symlink('/', {0!r})"])
def test_nothing_is_written_outside(tmp_path: Path, way: str) -> None:
    tmp_path.chmod(0o777)
    for folder in (tmp_path, Path("/tmp"), Path("/dev/shm"), Path("/var/tmp")):
        target = folder / f"latentmas-outside-{os.getpid()}"
        assert not run(f"{way.format(str(target))}\n{RIGHT}").passed
        assert not target.exists()


def test_outside_files_are_neither_changed_nor_removed(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    precious = tmp_path / "precious.txt"
    precious.write_text("data")
    precious.chmod(0o666)
    for way in ("os.remove(p)", "os.rename(p, 'mine')", "open(p, 'w')", "os.truncate(p, 0)", "print(open(p).read())"):
        assert not run(f"import os\np = {str(precious)!r}\n{way}\n{RIGHT}").passed
    assert precious.read_text() == "data"


def test_files_are_bounded() -> None:
    write = "with open('big', 'wb') as file:\n    for _ in range(40):\n        file.write(bytes(2**20))\n"
    assert not run(write + RIGHT, file_bytes=4 * MIB).passed


def test_there_is_no_network() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n{RIGHT}").passed


def test_no_secret_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "secret")
    assert run("import os\ndef double(x):\n    return os.environ.get('MY_API_KEY')", "assert double(1) is None").passed
    with tempfile.TemporaryFile() as secret:
        os.set_inheritable(secret.fileno(), True)
        tests = (
            f"import os\ntry:\n    os.fstat({max(secret.fileno(), 4)})\n    raise SystemExit\nexcept OSError:\n    pass"
        )
        assert run("", tests).passed
    assert not run("open('/proc/1/environ').read()\n" + RIGHT).passed


def test_other_processes_cannot_be_reached() -> None:
    assert not run(f"import os\nos.kill({os.getpid()}, 9)\n{RIGHT}").passed


def test_folders_without_permissions_are_removed_too() -> None:
    assert run(f"import os\nos.makedirs('a/b/c')\nos.chmod('a/b', 0)\nos.chmod('a', 0)\n{RIGHT}").passed


def test_output_is_discarded(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("for _ in range(20_000):\n    print('x' * 500)\n" + RIGHT, wall_seconds=20.0).passed
    assert capfd.readouterr() == ("", "")
    assert len(run(f"raise ValueError('x' * {10**6})").reason) < 500


def test_a_job_of_any_size_arrives() -> None:
    assert run(f"text = {'x' * 3_000_000!r}\n{RIGHT}").passed


def test_a_job_can_be_cancelled() -> None:
    cancelled = Event()
    Timer(0.5, cancelled.set).start()
    begin = time.monotonic()
    outcome = run_program(Job(program="while True: pass", tests=""), cancelled=cancelled)
    assert outcome == Outcome(passed=False, reason="it was cancelled")
    assert time.monotonic() - begin < 10


def test_it_runs_the_same_python() -> None:
    assert run("import sys", f"assert sys.version_info[:3] == {tuple(sys.version_info[:3])!r}").passed


def test_cancelling_ends_the_children_too_without_namespaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if os.geteuid():
        pytest.skip("without namespaces only root is sure to confine it")
    changes = (
        "from latentmas_ray.sandbox import supervisor; from latentmas_ray.sandbox.confine.isolation import Isolation; "
        "supervisor.isolate = lambda *_: Isolation("
        "has_own_user=False, has_no_network=False, has_own_processes=False); "
    )
    monkeypatch.setattr(run_module, "_START", run_module._START.replace("del sys", f"{changes}del sys"))
    mark = f"lmr{os.getpid()}"
    program = f"""
import ctypes, os, time
ctypes.CDLL(None).prctl(15, b"{mark}", 0, 0, 0)
if os.fork() == 0:
    os.setsid()
time.sleep({LONG_SECONDS})
"""
    cancelled = Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_program, Job(program=program, tests=""), cancelled=cancelled)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(processes_called(mark)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cancelled.set()
        assert running.result() == Outcome(passed=False, reason="it was cancelled")
    assert processes_called(mark) == []


def test_a_program_that_nothing_confines_runs_only_if_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = "from latentmas_ray.sandbox.confine import seccomp; seccomp.table = lambda *_: None; "
    monkeypatch.setattr(run_module, "_START", run_module._START.replace("del sys", f"{changes}del sys"))
    with pytest.raises(SandboxError, match="no filter of system calls"):
        run(RIGHT)
    assert run_program(Job(program=RIGHT, tests=TESTS, needs_confinement=False)) == Outcome(passed=True)


def test_what_confines_it_is_known() -> None:
    found = find_confinement()
    assert found is not None
    assert found.has_filter
    assert found.has_own_root or found.landlock
