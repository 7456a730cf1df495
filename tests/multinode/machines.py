"""Pretended machines on this one: Linux namespaces, joined by a switch of virtual links. Needs root and `ip`.

A machine has a network of its own (its address exists nowhere else), its own processes (two of them cannot find each
other's, as Ray otherwise would) and its own shared memory; the file system is common to all. Everything hangs on one
process that keeps the namespaces and ends when its input is closed. So when the process that made a machine ends, in
whatever way, the kernel kills all that runs on the machine and removes its network: nothing is left to be cleaned up.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

_KEEPER = "mount -t tmpfs tmpfs /dev/shm && ip link set lo up && echo up && exec cat"


class Machine:
    """The namespaces, and a way to start processes in them. A context manager; `power_off` at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        namespaces = ["--net", "--pid", "--mount", "--ipc", "--mount-proc"]
        self._keeper = subprocess.Popen(
            ["unshare", *namespaces, "--fork", "--kill-child", "sh", "-c", _KEEPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal ends tests in their order, not machines under them
        )
        assert self._keeper.stdout is not None
        said = self._keeper.stdout.readline().strip()
        self._entered: list[subprocess.Popen[str]] = []  # the parents of what runs here, outside
        if said != "up":
            self.power_off()
            raise RuntimeError(f"machine {name} cannot be made: {said}")
        children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children").read_text()
        self.pid = int(children)  # of its first process, as the outside sees it
        self._namespace = Path(f"/proc/{self.pid}/ns/pid").readlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.power_off()

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """The command line that runs `command` on this machine."""
        enter = ["nsenter", "--target", str(self.pid), "--net", "--pid", "--mount", "--ipc", "--"]
        return [*enter, *(str(part) for part in command)]

    def start(
        self, command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None, output: Path | None = None
    ) -> subprocess.Popen[str]:
        """A process on this machine, in a session of its own. What it prints goes to pipes, or to `output`."""
        with contextlib.ExitStack() as stack:
            out = subprocess.PIPE if output is None else stack.enter_context(output.open("w"))
            process = subprocess.Popen(
                self.inside(command),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE if output is None else subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self._entered = [*(one for one in self._entered if one.poll() is None), process]
        return process

    def run(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """A command to its end. Raises subprocess.TimeoutExpired, with what it has printed, after it was killed."""
        process = self.start(command, environment=environment)
        try:
            out, err = process.communicate(timeout=timeout_seconds)
        except BaseException:
            kill_session(process)
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def processes(self) -> dict[int, str]:
        """What the processes on this machine call themselves, by their number as the outside sees it."""
        found: dict[int, str] = {}
        if self.is_off:  # a machine that was made since, maybe by another test, may have the number of its namespace
            return found
        for folder in Path("/proc").iterdir():
            # A process may end while it is looked at, and may be none of ours to look at.
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and (folder / "ns" / "pid").readlink() == self._namespace:
                    name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(folder.name)] = name
        return found

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to all processes on the machine but the one that keeps it."""
        self.signal([pid for pid in self.processes() if pid != self.pid], number)

    def signal(self, pids: Iterable[int], number: signal.Signals) -> None:
        """Send a signal to these processes of the machine, by their numbers outside. Some may be over."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGCONT:
            self._continue_entered()

    @property
    def is_off(self) -> bool:
        """Whether it was powered off."""
        return self._keeper.returncode is not None

    def power_off(self) -> None:
        """Kill every process on the machine at once and remove its network. Safe to call twice.

        The kernel lets the first process of a machine end only after all others have.
        """
        while self._keeper.returncode is None:
            self._continue_entered()
            try:
                self._keeper.communicate(timeout=1)
            except subprocess.TimeoutExpired:  # stopped, say: then it does not see that its input is closed
                self._keeper.kill()  # and with it its child, the first process

    def _continue_entered(self) -> None:
        """`nsenter` stops with its child, but does not continue with it: it would never see the end of its child."""
        for process in self._entered:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)


def kill_session(process: subprocess.Popen[str]) -> None:
    """Kill a process of `Machine.start` with its children, and close its pipes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


class Switch:
    """Joins machines: each gets a link to it and an address. All of it lives in a machine of its own."""

    def __init__(self, subnet: str = "198.51.100") -> None:
        """`subnet` is the first three numbers of the addresses; by default a private range."""
        self._subnet = subnet
        self._machine = Machine("switch")
        self._num_ports = 0
        try:
            self._ip("link", "add", "switch", "type", "bridge")
            self._ip("link", "set", "switch", "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def plug_in(self, machine: Machine, address: str | None = None) -> str:
        """Link a machine, whose side of the link is `eth0`. Returns its address, a new one unless it is given."""
        if address is None:
            self._num_ports += 1
            address = f"{self._subnet}.{self._num_ports}"
        port = self._port(machine)
        self._ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
        self._ip("link", "set", port, "master", "switch", "up")
        # A machine that comes back with its address has its hardware address too: others remember that for a while.
        hardware = f"02:00:00:00:00:{int(address.rpartition('.')[2]):02x}"
        for arguments in (
            ["link", "set", "eth0", "address", hardware],
            ["address", "add", f"{address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            # Leads nowhere; Ray asks the routes for its own address by way of one on the internet.
            ["route", "add", "default", "dev", "eth0"],
        ):
            _run(machine.inside(["ip", *arguments]))
        return address

    def unplug(self, machine: Machine) -> None:
        """Cut the link: nothing arrives any more, and neither side is notified."""
        self._ip("link", "set", self._port(machine), "nomaster")

    def plug_in_again(self, machine: Machine) -> None:
        """After `unplug`: what is sent from now on arrives."""
        self._ip("link", "set", self._port(machine), "master", "switch")

    def slow_down(self, machine: Machine, megabits: int) -> None:
        """Let no more than this many Mbit/s pass the machine's link, in each direction, until `speed_up`."""
        self._queue(machine, ["tbf", "rate", f"{megabits}mbit", "burst", "64kb", "latency", "500ms"])

    def speed_up(self, machine: Machine) -> None:
        """After `slow_down`; safe to call twice."""
        self._queue(machine, ["pfifo", "limit", "1000"])

    def close(self) -> None:
        """Remove all links."""
        self._machine.power_off()

    def _port(self, machine: Machine) -> str:
        return f"to{machine.pid}"

    def _queue(self, machine: Machine, how: Sequence[str]) -> None:
        self._enter("tc", "qdisc", "replace", "dev", self._port(machine), "root", *how)
        _run(machine.inside(["tc", "qdisc", "replace", "dev", "eth0", "root", *how]))

    def _ip(self, *arguments: str) -> None:
        self._enter("ip", *arguments)

    def _enter(self, *command: str) -> None:
        # In the network of the switch only: `ip` names a machine by the number that its process has outside.
        _run(["nsenter", "--target", str(self._machine.pid), "--net", "--", *command])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
