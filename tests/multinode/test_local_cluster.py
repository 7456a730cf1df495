"""cluster/local_cluster.py: several nodes on this machine for a command, or until Ctrl-C, and nothing left of them."""

import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.multinode.runs import PATIENCE_SECONDS
from tests.ray.command_cases import ROOT, environment, processes_of, started, wait_for

SCRIPT = [sys.executable, ROOT / "cluster/local_cluster.py"]
LOOK = "import ray; ray.init('auto', log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()), 'alive')"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the script keeps its files; a short path, because Ray puts sockets there."""
    with tempfile.TemporaryDirectory(prefix="lmt", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.mark.slow  # `tests/unit/cluster` reads what it starts
def test_a_command_runs_on_the_head_and_its_exit_code_is_the_scripts(temporary: Path) -> None:
    command = ["python", "-c", f"{LOOK}; raise SystemExit(7)"]
    done = subprocess.run(
        [*SCRIPT, "--nodes", "1", "--num-cpus", "1", "--", *command],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    assert "1 alive" in done.stdout
    assert list(temporary.glob("lmn-*")) == []


@pytest.mark.slow  # nodes start and end; `tests/unit/cluster` reads what they start
@pytest.mark.parametrize(("number", "num_nodes"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_it_says_how_to_get_in_and_leaves_nothing_when_it_is_stopped(
    temporary: Path, number: signal.Signals, num_nodes: int
) -> None:
    with started([*SCRIPT, "--nodes", str(num_nodes), "--num-cpus", "1"]) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        assert re.match(rf"{num_nodes} nodes are up; address [\d.]+:6379, ", lines[0]), lines
        sudo, *shell = shlex.split(lines[2])
        assert sudo == "sudo"
        inside = subprocess.run(
            [*shell, "-c", f"exec python -c {shlex.quote(LOOK)}"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert f"{num_nodes} alive" in inside.stdout, inside.stderr
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
        assert (process.returncode, err) == (0, "the cluster is gone\n")
        wait_for(lambda: not processes_of(process.pid))
    assert list(temporary.glob("lmn-*")) == []


@pytest.mark.parametrize("flag", ["--nodes=0", "--nodes=many", "--nodes=99", "--object-store-mb=1"])
def test_a_size_that_cannot_be_is_told_in_one_line(flag: str) -> None:
    done = subprocess.run([*SCRIPT, flag], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(("from 1 to 16", "from 80 to 1000000"))
