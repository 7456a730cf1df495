"""The pretended machines: apart from one another and from this one, and gone without a trace."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.multinode.machines import Machine, Switch
from tests.ray.command_cases import wait_for

LISTEN = "import socket; s = socket.create_server(('', 4000)); print('up', flush=True); [s.accept() for _ in range(99)]"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 4000), timeout=1)"


@pytest.fixture
def machines() -> Iterator[tuple[Switch, Machine, Machine]]:
    """Two machines on a switch."""
    with ExitStack() as stack:
        yield (
            stack.enter_context(Switch()),
            stack.enter_context(Machine("first")),
            stack.enter_context(Machine("second")),
        )


def _listen(machine: Machine) -> None:
    process = machine.start([sys.executable, "-c", LISTEN])
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"


def _connects(machine: Machine, address: str) -> bool:
    return machine.run([sys.executable, "-c", CONNECT, address]).returncode == 0


def test_machines_reach_one_another_until_they_are_unplugged(machines: tuple[Switch, Machine, Machine]) -> None:
    switch, first, second = machines
    interfaces_here = socket.if_nameindex()
    switch.plug_in(first)
    address = switch.plug_in(second)
    _listen(second)
    assert _connects(first, address)
    assert socket.if_nameindex() == interfaces_here
    switch.unplug(second)
    assert not _connects(first, address)


def test_a_machine_that_comes_back_has_its_address(machines: tuple[Switch, Machine, Machine]) -> None:
    switch, first, second = machines
    switch.plug_in(first)
    address = switch.plug_in(second)
    _listen(second)
    assert _connects(first, address)
    second.power_off()
    with Machine("second again") as again:
        assert switch.plug_in(again, address) == address
        _listen(again)
        assert _connects(first, address)


def test_a_link_is_slow_until_it_is_fast_again(machines: tuple[Switch, Machine, Machine]) -> None:
    """It carries what is sent in either case."""
    switch, first, second = machines
    switch.plug_in(first)
    address = switch.plug_in(second)
    _listen(second)
    switch.slow_down(second, 4)
    assert "tbf" in second.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout
    assert "rate 4Mbit" in second.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout
    assert _connects(first, address)
    switch.speed_up(second)
    switch.speed_up(second)
    assert "tbf" not in second.run(["tc", "qdisc", "show", "dev", "eth0"]).stdout


def test_all_processes_of_a_machine_get_a_signal(machines: tuple[Switch, Machine, Machine]) -> None:
    """But the machine stays."""
    _, first, second = machines
    process, other = first.start(["sleep", "1000"]), second.start(["sleep", "1000"])
    wait_for(lambda: "sleep 1000 " in first.processes().values(), process)
    first.signal_all(signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    assert other.poll() is None
    assert not first.is_off
    assert first.run(["true"]).returncode == 0


def test_a_machine_whose_processes_are_stopped_can_be_powered_off(machines: tuple[Switch, Machine, Machine]) -> None:
    """What has entered the machine from outside stops with its child, which it then does not bury."""
    _, first, second = machines
    stopped, continued = first.start(["sleep", "1000"]), second.start(["sleep", "1000"])
    for machine, process in ((first, stopped), (second, continued)):
        wait_for(lambda machine=machine: "sleep 1000 " in machine.processes().values(), process)
        machine.signal_all(signal.SIGSTOP)
        wait_for(lambda process=process: _state(process.pid) == "T", process)
    second.signal_all(signal.SIGCONT)
    wait_for(lambda: _state(continued.pid) != "T", continued)
    os.kill(first.pid, signal.SIGSTOP)
    first.power_off()
    assert stopped.wait(timeout=60) != 0


def test_a_process_that_was_stopped_for_a_while_is_seen_to_end(machines: tuple[Switch, Machine, Machine]) -> None:
    _, machine, _ = machines
    process = machine.start(["sleep", "1000"])
    wait_for(lambda: "sleep 1000 " in machine.processes().values(), process)
    inside = [pid for pid, name in machine.processes().items() if name == "sleep 1000 "]
    machine.signal(inside, signal.SIGSTOP)
    wait_for(lambda: _state(process.pid) == "T", process)
    machine.signal(inside, signal.SIGCONT)
    machine.signal(inside, signal.SIGTERM)
    assert process.wait(timeout=60) != 0


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_machine_sees_its_own_processes_and_shared_memory_only(machines: tuple[Switch, Machine, Machine]) -> None:
    _, first, second = machines
    _listen(first)
    assert any("socket" in name for name in first.processes().values())
    assert not any("socket" in name for name in second.processes().values())
    assert first.run(["touch", "/dev/shm/mine"]).returncode == 0
    assert first.run(["ls", "/dev/shm"]).stdout == "mine\n"
    assert second.run(["ls", "/dev/shm"]).stdout == ""
    assert not Path("/dev/shm/mine").exists()


def test_power_off_ends_whatever_runs(machines: tuple[Switch, Machine, Machine]) -> None:
    _, machine, _ = machines
    process = machine.start(["sh", "-c", "setsid sleep 1000 & sleep 1000"])
    machine.power_off()
    assert process.wait(timeout=60) != 0
    assert not Path(f"/proc/{machine.pid}").exists()
    assert machine.processes() == {}


def test_what_runs_on_a_later_machine_does_not_count_for_one_that_is_off() -> None:
    """The kernel gives the numbers of namespaces that are gone to new ones."""
    with ExitStack() as stack:
        earlier = [stack.enter_context(Machine(f"earlier {i}")) for i in range(4)]
    with ExitStack() as stack:
        later = [stack.enter_context(Machine(f"later {i}")) for i in range(4)]
        for machine in earlier:
            assert machine.processes() == {}
            machine.signal_all(signal.SIGSTOP)
        assert all(machine.processes() for machine in later)


def test_nothing_outlives_the_process_that_made_a_machine(tmp_path: Path) -> None:
    """Not even where it is killed and can clean nothing up."""
    script = (
        "import os, signal; from tests.multinode.machines import Machine; machine = Machine('lonely');"
        "machine.start(['setsid', 'sleep', '1000']); print(machine.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    wait_for(lambda: not Path(f"/proc/{int(done.stdout)}").exists())
