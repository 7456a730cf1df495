"""The processes of a server on this machine: their memory, CPU seconds and open files over time."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import mean
from urllib.parse import urlsplit

import psutil

_HERE = ("127.0.0.1", "localhost", "::1")
_RAYLET = "raylet"
_ACTOR = "ray::"  # what Ray writes into the title of a process with an actor, and of some processes of its own
_OF_RAY = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


@dataclass(frozen=True, kw_only=True)
class MemorySample:
    """The processes at one time. Shared memory counts in each process that has touched it."""

    seconds: float  # since the first sample
    server_bytes: int  # resident, of the process that listens
    actor_bytes: int  # resident, of the processes of Ray's actors
    num_actors: int
    num_files: int  # open file descriptors of the process that listens


class ServerProcesses:
    """The process that listens at a port, and all that it has started."""

    def __init__(self, pid: int) -> None:
        self._server = psutil.Process(pid)
        # An ingress of Ray Serve is itself started by a node of Ray, as are the actors of its team.
        above = self._server.parent()
        self._root = above if above is not None and above.name() == _RAYLET else self._server

    @staticmethod
    def at(url: str) -> "ServerProcesses | None":
        """Return those of a server on this machine; None for another machine, or where they cannot be seen."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.hostname not in _HERE:
            return None
        with suppress(psutil.AccessDenied):
            for one in psutil.net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid is not None:
                    return ServerProcesses(one.pid)
        return None

    def sample(self, begin: float) -> MemorySample | None:
        """Return what there is now; None once the server has ended. `begin` is on the monotonic clock."""
        try:
            server_bytes, num_files = self._server.memory_info().rss, self._server.num_fds()
        except psutil.Error:
            return None
        actors = [bytes_ for name, bytes_ in self._others() if is_actor(name)]
        return MemorySample(
            seconds=time.monotonic() - begin,
            server_bytes=server_bytes,
            actor_bytes=sum(actors),
            num_actors=len(actors),
            num_files=num_files,
        )

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all processes since they were started; those that have ended do not count."""
        total = 0.0
        for process in self._all():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def _all(self) -> Iterator[psutil.Process]:
        yield self._root
        with suppress(psutil.Error):
            yield from self._root.children(recursive=True)

    def _others(self) -> Iterator[tuple[str, int]]:
        """Yield the title and the resident bytes of each process but the one that listens."""
        for process in self._all():
            with suppress(psutil.Error):
                if process.pid != self._server.pid:
                    yield " ".join(process.cmdline()[:1]), process.memory_info().rss


def is_actor(title: str) -> bool:
    """Whether a process of this title has an actor of the server, by what Ray writes there."""
    return title.startswith(_ACTOR) and not title.startswith(_OF_RAY)


class MemoryWatch:
    """Samples a server's processes in a thread of its own: a context manager."""

    def __init__(self, processes: ServerProcesses | None, every_seconds: float) -> None:
        self.samples: list[MemorySample] = []
        self.processes = processes
        self._every_seconds = every_seconds
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        if self.processes is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        if self.processes is not None:
            self._thread.join()

    def _watch(self) -> None:
        assert self.processes is not None
        begin = time.monotonic()
        is_last = False
        while not is_last:
            is_last = self._is_over.is_set()  # once more at the end
            if (sample := self.processes.sample(begin)) is None:
                return
            self.samples.append(sample)
            self._is_over.wait(self._every_seconds)


def growth_bytes(samples: Sequence[MemorySample]) -> float:
    """Return by how many bytes the server and its actors grew from the second quarter of the time to the last.

    The first quarter is left out: caches fill there. Means of quarters say more than single samples.
    """
    totals = [sample.server_bytes + sample.actor_bytes for sample in samples]
    quarter = len(totals) // 4
    if quarter == 0:
        return 0.0
    return mean(totals[-quarter:]) - mean(totals[quarter : 2 * quarter])
