"""Shortcuts for tests that bring up actors."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util import placement_group_table

from latentmas_ray.actors import RayRuntime
from latentmas_ray.actors.execute_turn import Runner
from latentmas_ray.config import TransportName
from latentmas_ray.runs.results import Answer, Failure
from latentmas_ray.runs.run_events import Observer
from latentmas_ray.scheduler.batch import plan_batches
from latentmas_ray.scheduler.loop import Scheduler
from latentmas_ray.scheduler.protocol import Runtime, RuntimeInfo
from latentmas_ray.scheduler.run import RunRequest
from latentmas_ray.scheduler.shared import SharedScheduler
from latentmas_ray.scheduler.turns import DriverSettings
from latentmas_ray.tasks.question import Question
from latentmas_ray.topology.agent import Topology
from latentmas_ray.transport import Transport, pick_transport
from tests.cases.runtime import runtime_of

PATIENCE_SECONDS = 120.0  # for what must happen, on a machine that has other things to do


def questions_that_wait(count: int, seconds: float, *, size: int = 0) -> list[Question]:
    """Questions over which a stand-in waits; their text is padded to `size` bytes."""
    texts = [f"wait {seconds} in question {index}".ljust(size, ".") for index in range(count)]
    return [
        Question(id=f"q{index}", question=text, kind="text", gold=None, record={"question": text})
        for index, text in enumerate(texts)
    ]


@contextmanager
def actors_of(
    agents: Sequence[str] | Topology, make_runner: Callable[[], Runner], **more: Any
) -> Iterator[tuple[RayRuntime, RuntimeInfo]]:
    """A started runtime with an actor for each agent, ended afterwards."""
    names = [agent.name for agent in agents.agents] if isinstance(agents, Topology) else agents
    runtime = runtime_of(names, make_runner, **{"start_seconds": PATIENCE_SECONDS, **more})
    try:
        yield runtime, runtime.start()
    finally:
        runtime.close()


def use_transport(runtime: RayRuntime, wanted: TransportName | Transport) -> None:
    """Switch an idle runtime to another transport, on the same actors."""
    if isinstance(wanted, str):
        wanted, _ = pick_transport(wanted, "none", runtime._manager.device_layout())
    runtime._transport = wanted
    runtime._manager.use_transport(runtime._transport)


def drive(
    runtime: Runtime,
    info: RuntimeInfo,
    topology: Topology,
    questions: Sequence[Question],
    *,
    batch_size: int = 1,
    observer: Observer | None = None,
    **settings: Any,
) -> dict[str, Answer | Failure]:
    """All results of one run by the question's id."""
    scheduler = SharedScheduler(Scheduler(runtime, info=info, memory_limit_bytes=settings.get("memory_limit_bytes")))
    request = RunRequest(
        topology=topology,
        settings=DriverSettings(**settings),
        batches=plan_batches(questions, batch_size),
        observer=observer,
    )
    return {result.id: result for result in scheduler.run(request) if isinstance(result, Answer | Failure)}


class Measured(float):
    """A number that depends a little on which questions were computed at the same time: equal to one close to it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(self - other) <= _ROUNDING

    __hash__ = None  # type: ignore[assignment]  # equal ones would have to have one hash


_ROUNDING = 1e-3  # of cosines in rows, which have four digits


def timeless(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of results without what may differ between two runs: times and whose they are, and the way that memory
    took. Cosines are `Measured`."""
    kept = {key: value for key, value in row.items() if key not in ("seconds", "agent_seconds", "own_seconds")}
    if "convergence" in row:
        kept["convergence"] = _measured(row["convergence"])
    return kept | {"transfers": [(t["source"], t["reader"], t["num_bytes"]) for t in row["transfers"]]}


def _measured(value: Any) -> Any:
    """The value with all floats in it `Measured`."""
    match value:
        case float():
            return Measured(value)
        case dict():
            return {name: _measured(one) for name, one in value.items()}
        case list():
            return [_measured(one) for one in value]
    return value


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when `condition` holds; fail after a long time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.05)


def groups() -> list[dict[str, Any]]:
    """The placement groups that hold places, by Ray's own account."""
    return [group for group in placement_group_table().values() if group["state"] != "REMOVED"]


def store_bytes_used() -> int:
    """What Ray's object store holds now, by Ray's own account."""
    total = ray.cluster_resources()["object_store_memory"]
    return int(total - ray.available_resources().get("object_store_memory", 0.0))
