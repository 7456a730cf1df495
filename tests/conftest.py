"""Rules for all tests: what their folder means, the order they run in, which ones are left out, and what happens where
hardware is missing."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers

from latentmas_ray.env import Requirement, read_environment
from latentmas_ray.errors import ConfigError
from latentmas_ray.vllm.installed import obstacle as vllm_obstacle

TESTS = Path(__file__).parent
# Several nodes come before Ray: of two processes one would have nothing else to do at the end than their one long file.
FOLDERS = ("architecture", "unit", "numerics", "browser", "multinode", "real", "serve", "ray", "vllm", "gpu")
MARKED_FOLDERS = frozenset({"browser", "ray", "multinode", "real", "serve", "vllm", "gpu"})

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A machine that is busy with tests is no reason to end Ray Serve's proxy.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
    "RAY_prestart_worker_first_driver": "0",  # most tests have fewer actors than Ray would start workers for them
}
# A developer's own settings must not send the tests to another cluster or change what they compute.
UNSET = ("RAY_ADDRESS", "LATENTMAS_API_KEYS", "LATENTMAS_TORCH_THREADS")

# Read by torch and transformers when they are first imported, here and in every process that a test starts. A folder's
# own conftest may import them before `pytest_configure` is called.
os.environ.update(QUIET)
IS_ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER" in os.environ
os.environ.setdefault("OMP_NUM_THREADS", "1" if IS_ONE_OF_SEVERAL else str(min(2, os.cpu_count() or 1)))

RAY_STORE_BYTES = 300 * 2**20

CACHE_DIR = pytest.StashKey[str]()
USER_CACHE = pytest.StashKey[Path]()
NUM_LEFT_OUT = pytest.StashKey[int]()
REQUIRED = pytest.StashKey[frozenset[Requirement]]()


def pytest_configure(config: pytest.Config) -> None:
    try:
        environment = read_environment()
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[REQUIRED] = environment.require
    # One of several processes is told by the first: that has set the tests' own folder already.
    told = getattr(config, "workerinput", {}).get("user_cache")
    config.stash[USER_CACHE] = environment.cache_dir if told is None else Path(told)
    config.stash[CACHE_DIR] = tempfile.mkdtemp(prefix="latentmas-tests-")
    for name in UNSET:
        os.environ.pop(name, None)
    # A shell has what it starts in the background ignore Ctrl-C, and with it the commands that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A busy machine is no failure, and a failure must come back when it is run again.
    num_examples = 100 if "slow" in config.stash[REQUIRED] else 40
    settings.register_profile("tests", deadline=None, derandomize=True, max_examples=num_examples)
    settings.load_profile("tests")
    # Hypothesis also draws constants from the sources of what is imported, which depends on the tests that ran before.
    mock.patch.object(providers, "is_local_module_file", return_value=False).start()
    os.environ["LATENTMAS_CACHE_DIR"] = config.stash[CACHE_DIR]


def pytest_unconfigure(config: pytest.Config) -> None:
    if CACHE_DIR in config.stash:
        shutil.rmtree(config.stash[CACHE_DIR], ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if (folder := _folder(item)) in MARKED_FOLDERS:
            item.add_marker(folder)
    items.sort(key=_place)
    if "slow" not in config.stash[REQUIRED]:
        slow = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.stash[NUM_LEFT_OUT] = len(slow)
        config.hook.pytest_deselected(items=slow)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (told := getattr(session.config, "workeroutput", None)) is not None:  # this process is one of several
        told["num_left_out"] = session.config.stash.get(NUM_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["user_cache"] = str(node.config.stash[USER_CACHE])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each of several processes has collected the same tests; the one that leads them has collected none."""
    node.config.stash[NUM_LEFT_OUT] = getattr(node, "workeroutput", {}).get("num_left_out", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if num_left_out := config.stash.get(NUM_LEFT_OUT, 0):
        tests = "1 slow test was" if num_left_out == 1 else f"{num_left_out} slow tests were"
        terminalreporter.write_line(f"{tests} not run; LATENTMAS_REQUIRE=slow runs them")


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""


def _place(item: pytest.Item) -> tuple[int, bool, bool]:
    folder = _folder(item)
    place = FOLDERS.index(folder) if folder in FOLDERS else len(FOLDERS)
    fixtures = set(getattr(item, "fixturenames", ()))
    has_own_ray = "start_ray" in fixtures and "cluster" not in fixtures  # the shared one must be ended for it
    return place, has_own_ray, item.get_closest_marker("slow") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, find_obstacle in OBSTACLES.items():
        if item.get_closest_marker(name) is None or (obstacle := find_obstacle(item.config)) is None:
            continue
        if name in item.config.stash[REQUIRED]:
            pytest.fail(f"{obstacle}, and LATENTMAS_REQUIRE asks for {name}", pytrace=False)
        pytest.skip(obstacle)


@cache
def _gpu_obstacle(_: pytest.Config) -> str | None:
    # Not at the top: most tests need no torch, and it takes seconds to import.
    import torch

    return None if torch.cuda.is_available() else "no CUDA device is here"


@cache
def _multinode_obstacle(_: pytest.Config) -> str | None:
    """Try what a test with several nodes does first: a network namespace with a pair of virtual links in it."""
    if shutil.which("ip") is None:
        return "the `ip` command (iproute2) is missing"
    namespace = f"latentmas-probe-{os.getpid()}"
    made = _ip("netns", "add", namespace)
    try:
        obstacle = made or _ip("-n", namespace, "link", "add", "name", "one", "type", "veth", "peer", "name", "other")
    finally:
        if made is None:
            _ip("netns", "delete", namespace)
    return obstacle


def _ip(*arguments: str) -> str | None:
    """Run `ip`; None, or why it failed."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no network namespace can be made: {done.stderr.strip()}"


def _browser_obstacle(_: pytest.Config) -> str | None:
    return None if shutil.which("chromium") else "chromium is not installed"


def _vllm_obstacle(_: pytest.Config) -> str | None:
    # vLLM is not imported: that takes long, and on a CPU it changes the whole process.
    return None if (why := vllm_obstacle()) is None else f"{why} (make vllm)"


def _real_obstacle(config: pytest.Config) -> str | None:
    from examples.real_model.folder import obstacle

    return obstacle(config.stash[USER_CACHE] / "real_model")


def _serve_obstacle(_: pytest.Config) -> str | None:
    packages = ("fastapi", "uvicorn", "openai", "grpc_reflection")  # the last one is of ray[serve] alone
    missing = [name for name in packages if find_spec(name) is None]
    return f"{', '.join(missing)} is not installed (the extra serve)" if missing else None


def _clients_obstacle(_: pytest.Config) -> str | None:
    found = all((TESTS / f"serve/clients/{name}/bin/python").exists() for name in (".venv", ".venv-crewai"))
    return None if found else "the clients are not installed (make clients)"


OBSTACLES: dict[Requirement, Callable[[pytest.Config], str | None]] = {
    "browser": _browser_obstacle,
    "clients": _clients_obstacle,
    "gpu": _gpu_obstacle,
    "multinode": _multinode_obstacle,
    "real": _real_obstacle,
    "serve": _serve_obstacle,
    "vllm": _vllm_obstacle,
}


@pytest.fixture(scope="session")
def user_cache(pytestconfig: pytest.Config) -> Path:
    """The cache folder that the package uses outside the tests."""
    return pytestconfig.stash[USER_CACHE]


@pytest.fixture(autouse=True)
def _no_ray_left_over(request: pytest.FixtureRequest) -> None:
    """Tests of other folders begin without the Ray that those of `tests/ray` share: a process that is connected to one
    cluster joins no other."""
    ray = sys.modules.get("ray")
    if _folder(request.node) not in MARKED_FOLDERS and ray is not None and ray.is_initialized():
        ray.shutdown()


@pytest.fixture(scope="session")
def start_ray() -> Iterator[Callable[..., None]]:
    """Start Ray with this number of (fake) GPUs, and resources that do not depend on the machine; or use one that is
    running with as many. All folders of a process share it: a process is connected to one cluster at a time."""
    import ray

    running: list[int] = []

    def start(num_gpus: int = 0) -> None:
        if running == [num_gpus] and ray.is_initialized():
            return
        ray.shutdown()
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=num_gpus,
            object_store_memory=RAY_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        running[:] = [num_gpus]

    with pytest.MonkeyPatch.context() as patch:
        # Workers import stand-ins from the tests, wherever pytest was started.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")]))
        # More threads than cores cost time; the four CPUs are pretended.
        patch.setenv("LATENTMAS_TORCH_THREADS", "1")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield start
        ray.shutdown()


@pytest.fixture(scope="module")
def cluster(start_ray: Callable[..., None]) -> None:
    """A Ray on this machine without GPUs, in this process."""
    start_ray()
