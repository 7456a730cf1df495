"""One Ray for all tests of this folder, with resources that do not depend on the machine."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

ROOT = Path(__file__).parents[2]
STORE_BYTES = 300 * 2**20


@pytest.fixture(scope="session")
def start_ray() -> Iterator[Callable[..., None]]:
    """Start Ray with this number of (fake) GPUs, or use one that is running with as many."""
    running: list[int] = []

    def start(num_gpus: int = 0) -> None:
        if running == [num_gpus] and ray.is_initialized():
            return
        ray.shutdown()
        ray.init(
            address="local",
            num_cpus=4,
            num_gpus=num_gpus,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        running[:] = [num_gpus]

    with pytest.MonkeyPatch.context() as patch:
        # Workers import stand-ins from the tests, wherever pytest was started.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        # More threads than cores cost time; the four CPUs are pretended.
        patch.setenv("LATENTMAS_TORCH_THREADS", "1")
        yield start
        ray.shutdown()


@pytest.fixture(scope="module")
def cluster(start_ray: Callable[..., None]) -> None:
    """A Ray on this machine without GPUs, in this process."""
    start_ray()


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process had no connection to Ray; it must not try to get one. The connection of other tests stays."""

    def refuse(*_: object, **more: object) -> None:
        raise AssertionError(f"Ray was asked for a connection: {more}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
