"""The threads with which the local runtime computes: as asked for, else bounded by the cores that are free."""

import threading
from collections.abc import Iterator

import pytest
import torch

from benchmarks.scaling.timer_runner import TimerRunner
from latentmas_ray.actors import local_runtime
from latentmas_ray.actors.local_runtime import LocalRuntime
from latentmas_ray.engine.turn import Sampling, TurnRequest
from latentmas_ray.errors import ModelError
from latentmas_ray.placement.free_cores import FreeCores
from latentmas_ray.transport import Loopback

WORK = TurnRequest(
    agent="a", batch=0, question_ids=("q",), prompts=(), thinks="text", sampling=Sampling(), is_last=True
)


@pytest.fixture(autouse=True)
def threads_of_torch() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[FreeCores]:
    """The free cores that are found here."""
    found = [FreeCores(usable=16.0, free=3.2)]
    monkeypatch.setattr(local_runtime, "find_free_cores", lambda: found[0])
    return found


@pytest.mark.parametrize(
    ("asked", "cores", "threads", "told"),
    [
        (None, FreeCores(usable=16.0, free=3.2), 3, "3 torch threads (3.2 of 16 cores are free)"),
        (None, FreeCores(usable=16.0, free=0.1), 1, "1 torch thread (0.1 of 16 cores are free)"),
        (None, FreeCores(usable=16.0, free=16.0), 8, "8 torch threads (16.0 of 16 cores are free)"),  # never more
        (5, FreeCores(usable=2.0, free=0.0), 5, "5 torch threads"),
        (12, FreeCores(usable=2.0, free=0.0), 12, "12 torch threads"),  # also more than torch would have
    ],
)
def test_threads_are_set_and_told(
    asked: int | None, cores: FreeCores, threads: int, told: str, free: list[FreeCores]
) -> None:
    free[0] = cores
    runtime = LocalRuntime(TimerRunner, Loopback(), num_threads=asked)
    assert f", {told}" in runtime.start().description
    assert torch.get_num_threads() == threads
    seen: list[int] = []
    # Each thread of a process has its own number.
    other = threading.Thread(target=lambda: seen.extend((runtime.submit(WORK, {}) and 0, torch.get_num_threads())))
    other.start()
    other.join(60)
    assert seen[1:] == [threads]
    runtime.close()
    assert torch.get_num_threads() == 8
    runtime.close()


@pytest.mark.usefixtures("free")
def test_one_thread_needs_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(local_runtime, "find_free_cores", lambda: pytest.fail("measured"))
    runtime = LocalRuntime(TimerRunner, Loopback())
    assert ", 1 torch thread" in runtime.start().description
    runtime.close()


@pytest.mark.usefixtures("free")
def test_a_start_that_fails_leaves_torch_as_it_was() -> None:
    def fail() -> TimerRunner:
        raise ModelError("model", "x", "it must be there")

    runtime = LocalRuntime(fail, Loopback())
    with pytest.raises(ModelError):
        runtime.start()
    runtime.close()
    assert torch.get_num_threads() == 8
