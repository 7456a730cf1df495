"""Runs the cells of a study as Ray tasks, on this machine or on a cluster.

Only the driver's machine has the folder. Weights go to the tasks and come back through the object store, and states
come to an actor on the driver's machine, so the nodes of a cluster need no common file system; what they need is this
checkout (a cluster's own, or `ray job submit --working-dir .`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from examples.training.studies.cell import SAVE_SECONDS, CellFunction, CellRun, StudyCell
from examples.training.studies.folder import StudyFolder, pack, unpack
from examples.training.studies.on_core import wait_on_core
from latentmas_ray.actors.cluster import connect_as_configured
from latentmas_ray.actors.errors import get_outcome, reason, remote_error
from latentmas_ray.errors import ConfigError, first_line
from latentmas_ray.paths import replacement_of

_STATE_SECONDS = 120.0  # that a state may take to the driver's machine
_MAX_LISTED = 12


class StateKeeper:
    """An actor on the driver's machine that writes the states of unfinished cells into the folder."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def save(self, name: str, state: bytes) -> None:
        """Keep the state of a cell, in place of an earlier one."""
        with replacement_of(self._path(name), ".study-{}.new") as file:
            file.write(state)

    def load(self, name: str) -> bytes | None:
        """Return the state that a cell saved last; None for none."""
        path = self._path(name)
        return path.read_bytes() if path.exists() else None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.pt"


@dataclass
class _Progress:
    """The cells that wait for others, those that are being run (by their references), and those that failed."""

    waiting: list[StudyCell]
    running: dict[Any, StudyCell] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def choose_cells(cells: Sequence[StudyCell], patterns: Sequence[str], finished: Sequence[str] = ()) -> list[StudyCell]:
    """Return the cells whose names match one of `patterns` (such as `sft-*`), and the unfinished ones that those come
    after; all for no pattern. Raises ConfigError for a pattern that matches none."""
    named = {cell.name: cell for cell in cells}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in named):
            listed = ", ".join(list(named)[:_MAX_LISTED]) + (", …" if len(named) > _MAX_LISTED else "")
            raise ConfigError("only", pattern, f"it must match a cell; there are {listed}")
    chosen = {name for name in named if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)}
    while more := {one for name in chosen for one in named[name].after if one not in finished} - chosen:
        chosen |= more
    return [cell for cell in cells if cell.name in chosen]


def run_cells(
    cells: Sequence[StudyCell],
    folder: StudyFolder,
    function: CellFunction,
    *,
    address: str | None = None,
    save_seconds: float = SAVE_SECONDS,
    say: Callable[[str], None] = print,
) -> Mapping[str, str]:
    """Run the cells that `folder` does not have yet, each after those it names; return why cells failed, by name.

    `function` is a function of a module, which tasks import. Uses this process's connection to Ray, the cluster at
    `address` or at RAY_ADDRESS, or starts Ray here. A cell that fails is said in one line and the others are run on;
    a task whose worker or node dies is run again from its state. Raises InputError as `StudyFolder.check_cells` and
    for an address where no cluster is.
    """
    folder.check_cells(cells)
    progress = _Progress([cell for cell in cells if cell.name not in folder.rows])
    if not progress.waiting:
        return {}
    cluster = connect_as_configured(address)
    try:
        keeper = _start_keeper(folder.path / "states")
        task = ray.remote(num_cpus=1, max_retries=3)(_compute)
        total, begin = len(progress.waiting), time.monotonic()
        while progress.waiting or progress.running:
            for cell in _take_ready(progress, folder):
                blobs = [ray.put(folder.weights(name)) for name in cell.after]
                progress.running[task.remote(function, cell, keeper, save_seconds, *blobs)] = cell
            if not progress.running:
                break
            (reference, *_), _ = ray.wait(list(progress.running), num_returns=1)
            cell = progress.running.pop(reference)
            _finish(cell, get_outcome(reference), folder, progress.failed, say)
            done = total - len(progress.waiting) - len(progress.running)
            say(f"{done}/{total} cells, {time.monotonic() - begin:.0f} s")
    finally:
        cluster.disconnect()
    return progress.failed


def _take_ready(progress: _Progress, folder: StudyFolder) -> list[StudyCell]:
    """Take the waiting cells whose predecessors have finished; those whose predecessors failed fail too."""
    for cell in list(progress.waiting):
        if lost := [name for name in cell.after if name in progress.failed]:
            progress.failed[cell.name] = f"it comes after {lost[0]}"
    progress.waiting = [cell for cell in progress.waiting if cell.name not in progress.failed]
    ready = [cell for cell in progress.waiting if all(name in folder.rows for name in cell.after)]
    progress.waiting = [cell for cell in progress.waiting if cell not in ready]
    return ready


def _finish(
    cell: StudyCell, outcome: Any, folder: StudyFolder, failed: dict[str, str], say: Callable[[str], None]
) -> None:
    if isinstance(outcome, BaseException):
        raised = remote_error(outcome)
        why = reason(outcome) if raised is None else f"{type(raised).__name__}: {first_line(raised)}"
        failed[cell.name] = why
        say(f"{cell.name} failed: {why}")
        return
    figures, weights, cpu_seconds, node = outcome
    folder.add(cell, figures, weights, cpu_seconds, node)
    numbers = " ".join(f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, int | float))
    say(f"{cell.name}: {cpu_seconds:.0f} CPU s  {numbers}")


def _start_keeper(folder: Path) -> Any:
    """Start the actor that writes states, on this machine: the folder is here."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(StateKeeper).remote(str(folder.absolute()))


def _compute(
    function: CellFunction, cell: StudyCell, keeper: Any, save_seconds: float, *blobs: bytes
) -> tuple[Mapping[str, Any], bytes | None, float, str]:
    """Run in a task: return the cell's figures, its weights, its CPU seconds, those before an interruption included,
    and the address of this node.

    What was computed after the last saved state of an interrupted cell is lost, and is not counted.
    """
    torch.set_num_threads(1)
    state = wait_on_core(keeper.load.remote(cell.name))
    earlier_seconds, resumed = (0.0, None) if state is None else unpack(state)
    begin = time.process_time() - earlier_seconds

    def write(value: Any) -> None:
        state = pack((time.process_time() - begin, value))
        wait_on_core(keeper.save.remote(cell.name, state), _STATE_SECONDS)

    weights = {name: unpack(blob) for name, blob in zip(cell.after, blobs, strict=True)}
    result = function(CellRun(cell, weights, resumed, write=write, save_seconds=save_seconds))
    packed = None if result.weights is None else pack(dict(result.weights))
    seconds = time.process_time() - begin + result.actors_cpu_seconds
    return dict(result.figures), packed, seconds, ray.util.get_node_ip_address()
