"""How many cores of this machine a process may use, and how many of them others leave free.

A model that is computed with more threads than there are free cores waits at the end of every operation for the thread
that had no core; it may then be many times slower than with one thread.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_WINDOW_SECONDS = 0.2  # in which the use of the cores is measured: 20 ticks of the kernel's clock for each core
_STAT = Path("/proc/stat")
_QUOTA_V1 = "cpu.cfs_quota_us"
_PERIOD_V1 = "cpu.cfs_period_us"


@dataclass(frozen=True, kw_only=True)
class FreeCores:
    """The cores that this process may use, and those of them that are free; both in whole cores and parts of one."""

    usable: float  # by affinity and by the quota of the process's control groups
    free: float  # of these, without what other processes use

    @property
    def num_threads(self) -> int:
        """The threads that get a core each; at least 1."""
        return max(1, min(int(self.usable), round(self.free)))

    def __str__(self) -> str:
        return f"{self.free:.1f} of {self.usable:g} cores are free"


@dataclass(frozen=True, kw_only=True)
class CoreUse:
    """What has been computed so far on some cores, in seconds: by all processes, and by this one."""

    at: float
    all_seconds: float
    own_seconds: float


def find_free_cores(window_seconds: float = _WINDOW_SECONDS) -> FreeCores:
    """Measure how many cores are free, which takes `window_seconds`.

    Where the system does not count the use of its cores (no /proc/stat), the load average of the last minute is taken.
    That is worse: it has this process's own use in it, and that of a run that has just ended.
    """
    cores = usable_cores()
    usable = min(float(len(cores)), _quota(Path("/")) or float(len(cores)))
    before = _use_of(cores)
    if before is None:
        num_all = os.cpu_count() or len(cores)
        return FreeCores(usable=usable, free=max(0.0, min(usable, num_all - os.getloadavg()[0])))
    time.sleep(window_seconds)
    after = _use_of(cores)
    assert after is not None, "it could be read before"
    return FreeCores(usable=usable, free=min(usable, free_between(before, after, len(cores))))


def usable_cores() -> frozenset[int]:
    """Return the numbers of the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def free_between(before: CoreUse, after: CoreUse, num_cores: int) -> float:
    """Return how many of `num_cores` other processes left free on average; at least 0."""
    others = (after.all_seconds - before.all_seconds) - (after.own_seconds - before.own_seconds)
    window = after.at - before.at
    return max(0.0, num_cores - max(0.0, others) / window) if window > 0 else float(num_cores)


def parse_use(stat: str, cores: frozenset[int], *, ticks_per_second: int, is_niced: bool) -> float:
    """Return the seconds that processes have computed on `cores`, from the text of /proc/stat. What has a low priority
    does not count for a process that has not (`is_niced`): it gets its core."""
    total = 0
    for line in stat.splitlines():
        name, _, figures = line.partition(" ")
        if not (name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in cores):
            continue
        user, nice, system, _, _, irq, softirq, steal = (int(figure) for figure in figures.split()[:8])
        total += user + system + irq + softirq + steal + (nice if is_niced else 0)
    return total / ticks_per_second


def _use_of(cores: frozenset[int]) -> CoreUse | None:
    try:
        stat = _STAT.read_text()
        is_niced = os.getpriority(os.PRIO_PROCESS, 0) > 0
        seconds = parse_use(stat, cores, ticks_per_second=os.sysconf("SC_CLK_TCK"), is_niced=is_niced)
    except (OSError, ValueError):
        return None
    return CoreUse(at=time.monotonic(), all_seconds=seconds, own_seconds=time.process_time())


def _quota(root: Path) -> float | None:
    """Return the cores that the control groups of this process allow it on average; None without a limit. Both versions
    of control groups are read, and in version 2 the groups above, whose limits count too."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, name = [*line.split(":", 2), "", ""][:3]
        group = Path(name.lstrip("/"))
        if controllers == "":
            found += [_quota_v2(root / "sys/fs/cgroup" / one) for one in (group, *group.parents)]
        elif "cpu" in controllers.split(","):
            found += [_quota_v1(root / "sys/fs/cgroup" / folder / group) for folder in (controllers, "cpu")]
    return min((quota for quota in found if quota is not None), default=None)


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota, period = (int((folder / name).read_text()) for name in (_QUOTA_V1, _PERIOD_V1))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
