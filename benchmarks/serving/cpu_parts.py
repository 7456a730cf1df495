"""CPU seconds of a server's processes, by what they are."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, fields

import psutil

from latentmas_ray.bench.serve.server_processes import is_actor


@dataclass(frozen=True, kw_only=True)
class CpuParts:
    """CPU seconds, of all processes of a kind together."""

    process: float = 0.0  # the one with the scheduler: of the server, or of the driver
    actors: float = 0.0
    ray: float = 0.0  # Ray's own: raylet, its store, the cluster's tables, idle workers

    @property
    def total(self) -> float:
        """Of all of them."""
        return self.process + self.actors + self.ray

    def since(self, before: "CpuParts") -> "CpuParts":
        """Return what was used after `before`."""
        return CpuParts(**{one.name: getattr(self, one.name) - getattr(before, one.name) for one in fields(self)})


def cpu_parts(pid: int) -> CpuParts:
    """Return the CPU seconds of a process and of all that it has started, each since its start. A process that has
    ended counts no more."""
    root = psutil.Process(pid)
    used = dict.fromkeys((one.name for one in fields(CpuParts)), 0.0)
    for one in _with_children(root):
        with suppress(psutil.Error):
            times = one.cpu_times()
            used[_kind(one, root)] += times.user + times.system
    return CpuParts(**used)


def _with_children(root: psutil.Process) -> Iterable[psutil.Process]:
    yield root
    yield from root.children(recursive=True)


def _kind(one: psutil.Process, root: psutil.Process) -> str:
    if one.pid == root.pid:
        return "process"
    return "actors" if is_actor(" ".join(one.cmdline()[:1])) else "ray"
