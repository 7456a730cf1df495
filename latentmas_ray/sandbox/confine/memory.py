"""One bound on the memory of all processes of a job together.

`Cgroup`: the kernel's own count, where this user may make a control group (usually root): ordinary memory, files in
memory and the kernel's own for it. `used_bytes`: elsewhere the supervisor adds up what the processes hold, many times a
second, and each process has an address space of limited size. Memory that belongs to no process (System V, memfd) does
not exist: the filter of system calls refuses it.
"""

import contextlib
import os
import time
from pathlib import Path

_MOUNT_POINT = Path("/sys/fs/cgroup")
_REMOVE_SECONDS = 2.0


class Cgroup:
    """A control group with a bound on memory. Version 1 and 2 of the kernel's interface."""

    def __init__(self, folder: Path, *, is_v2: bool) -> None:
        self.folder = folder
        self._is_v2 = is_v2

    @classmethod
    def make(cls, name: str, num_bytes: int) -> "Cgroup | None":
        """Make a group called `name`; None where this user may not, or memory is not counted."""
        for parent, is_v2 in _parents():
            group = cls(parent / name, is_v2=is_v2)
            with contextlib.suppress(OSError):  # left by a process of this number that was killed
                group.folder.rmdir()
            try:
                group.folder.mkdir()
            except OSError:
                continue
            try:
                group._bound(num_bytes)
            except OSError:
                group.remove()
                continue
            if group._can_be_entered():
                return group
            group.remove()
        return None

    def enter(self) -> None:
        """Move this process into the group; its children follow. Raises OSError."""
        (self.folder / "cgroup.procs").write_text("0")

    def _can_be_entered(self) -> bool:
        """Whether a process of this user may move into the group: making it may be allowed where that is not."""
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                self.enter()
                os._exit(0)
            os._exit(1)
        return os.waitpid(child, 0)[1] == 0

    def ran_out(self) -> bool:
        """Whether the kernel ended a process because the bound was reached."""
        counts = self.folder / ("memory.events" if self._is_v2 else "memory.oom_control")
        with contextlib.suppress(OSError, ValueError):
            for line in counts.read_text().splitlines():
                key, _, number = line.partition(" ")
                if key == "oom_kill":
                    return int(number) > 0
        return False

    def remove(self) -> None:
        """Remove the group; its processes have ended."""
        deadline = time.monotonic() + _REMOVE_SECONDS
        while True:
            try:
                self.folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                if time.monotonic() > deadline:
                    return
                time.sleep(0.005)
            else:
                return

    def _bound(self, num_bytes: int) -> None:
        if self._is_v2:
            (self.folder / "memory.max").write_text(str(num_bytes))
            with contextlib.suppress(OSError):  # without swap there is no such file
                (self.folder / "memory.swap.max").write_text("0")
            return
        (self.folder / "memory.limit_in_bytes").write_text(str(num_bytes))
        with contextlib.suppress(OSError):
            (self.folder / "memory.memsw.limit_in_bytes").write_text(str(num_bytes))


def used_bytes(pids: list[int], bound: int) -> int:
    """Return what these processes hold in memory together. Pages that they share count once, if it is close."""
    total = sum(_resident(pid) for pid in pids)
    return total if total <= bound else sum(_proportional(pid) for pid in pids)


def _parents() -> list[tuple[Path, bool]]:
    """Return the folders in which a group could be made, and whether they are of version 2: the own group's for version
    1; for version 2 its ancestors, since a group with processes may have no groups that count memory."""
    found: list[tuple[Path, bool]] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, kinds, own = line.split(":", 2)
            if "memory" in kinds.split(","):
                found.append((_MOUNT_POINT / "memory" / own.lstrip("/"), False))
                found.append((_MOUNT_POINT / "memory", False))
            elif not kinds:
                here = _MOUNT_POINT / own.lstrip("/")
                above = [here, *here.parents]
                found += [(place, True) for place in above if place.is_relative_to(_MOUNT_POINT) and _counts(place)]
    return found


def _counts(place: Path) -> bool:
    try:
        return "memory" in (place / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def _proportional(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return _resident(pid)
    fields = (line.split() for line in lines)
    return sum(int(field[1]) * 1024 for field in fields if field[0] in ("Pss:", "SwapPss:"))
