"""Tests without their hardware skip with a reason, and fail where LATENTMAS_REQUIRE names it; slow ones are counted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
Done = subprocess.CompletedProcess[str]

SLOW = "import pytest\n\n\n@pytest.mark.slow\ndef test_one():\n    pass\n\n\ndef test_other():\n    pass\n"
# In place of vLLM: a version that is not the right one.
VLLM = "Metadata-Version: 2.1\nName: vllm\nVersion: 0.1\n"
# In place of torch, which takes long to import: a machine without a GPU.
TORCH = "class cuda:\n    is_available = staticmethod(lambda: False)\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with this one's rules, one test in each folder, the dear ones first in the alphabet, and a slow one."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "torch.py").write_text(TORCH)
    (folder / "vllm-0.1.dist-info").mkdir()
    (folder / "vllm-0.1.dist-info" / "METADATA").write_text(VLLM)
    for name in ("browser", "gpu", "multinode", "real", "unit", "vllm"):
        (folder / "tests" / name).mkdir(parents=True)
        (folder / "tests" / name / "test_it.py").write_text("def test_it():\n    pass\n")
    (folder / "tests" / "unit" / "test_long.py").write_text(SLOW)
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    shutil.copytree(ROOT / "examples" / "real_model", folder / "examples" / "real_model")
    return folder


def run_tests(project: Path, require: str, *flags: str) -> Done:
    """Run them with no GPU in sight and no `ip` command."""
    environment = os.environ | {"LATENTMAS_REQUIRE": require, "CUDA_VISIBLE_DEVICES": "", "PATH": str(project)}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *flags]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def nothing_required(project: Path) -> Done:
    return run_tests(project, require="")


@pytest.fixture(scope="module")
def all_required(project: Path) -> Done:
    return run_tests(project, require="browser,gpu,multinode,real,slow,vllm")


def test_they_skip_with_a_reason_and_run_in_the_order_of_cost(nothing_required: Done) -> None:
    done = nothing_required
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed, 5 skipped" in done.stdout
    assert "no CUDA device is here" in done.stdout
    assert "the `ip` command (iproute2) is missing" in done.stdout
    assert "chromium is not installed" in done.stdout
    assert "vllm 0.1 is installed, and <0.33,>=0.32 is needed (make vllm)" in done.stdout
    assert "the model SmolLM2-135M-Instruct is not in " in done.stdout
    assert "(make real)" in done.stdout
    folders = ("unit", "browser", "multinode", "real", "vllm", "gpu")
    places = [done.stdout.index(f"tests/{folder}/test_it.py::") for folder in folders]
    assert places == sorted(places)


def test_they_fail_where_they_are_required(all_required: Done) -> None:
    done = all_required
    assert done.returncode == 1
    assert "3 passed, 5 errors" in done.stdout
    assert "no CUDA device is here, and LATENTMAS_REQUIRE asks for gpu" in done.stdout
    assert "missing, and LATENTMAS_REQUIRE asks for multinode" in done.stdout
    assert "chromium is not installed, and LATENTMAS_REQUIRE asks for browser" in done.stdout
    assert "(make vllm), and LATENTMAS_REQUIRE asks for vllm" in done.stdout
    assert "(make real), and LATENTMAS_REQUIRE asks for real" in done.stdout


def test_slow_ones_are_left_out_and_counted(nothing_required: Done) -> None:
    assert "1 slow test was not run; LATENTMAS_REQUIRE=slow runs them" in nothing_required.stdout.splitlines()
    assert "test_one" not in nothing_required.stdout


def test_several_processes_count_them_once(project: Path) -> None:
    done = run_tests(project, "", "tests/unit", "--numprocesses", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 slow test was not run; LATENTMAS_REQUIRE=slow runs them" in done.stdout.splitlines()[-2]
    assert "2 passed" in done.stdout
    assert "test_one" not in done.stdout


def test_slow_ones_are_run_where_they_are_required(all_required: Done) -> None:
    assert "test_one PASSED" in all_required.stdout
    assert "slow tests" not in all_required.stdout


def test_a_mistake_in_the_variable_is_told(project: Path) -> None:
    done = run_tests(project, require="gpus")
    assert done.returncode != 0
    assert "LATENTMAS_REQUIRE: got 'gpus'" in done.stdout + done.stderr
