"""What the kernels of two machines tell of each other, in network namespaces: no Ray, no actors."""

import os
import signal
import sys
import time
from contextlib import ExitStack

import pytest

from tests.multinode.machines import Machine, Switch, kill_session
from tests.ray.command_cases import environment

PORT = 9000
STOPPED_SECONDS = 15.0  # more than `SILENT_SECONDS`
LISTEN = f"import socket, time; s = socket.create_server(('', {PORT})); print('up', flush=True); time.sleep(1000)"
WATCH = f"""
import sys, time
from latentmas_ray.actors.health.node_watch import NodeState, NodeWatch
watch = NodeWatch()
watch.watch({{"far": (sys.argv[1], {PORT})}})
print("up", flush=True)
while True:
    for change in watch.look():
        print(change.state.value, flush=True)
    time.sleep(0.2)
"""

pytestmark = pytest.mark.slow  # half a minute of silence; `tests/unit/actors/health` has what is made of it


def test_a_stopped_process_is_not_silent_and_a_cut_link_is() -> None:
    with ExitStack() as stack:
        switch = stack.enter_context(Switch())
        near, far = (stack.enter_context(Machine(name)) for name in ("near", "far"))
        switch.plug_in(near)
        address = switch.plug_in(far)
        listener = far.start([sys.executable, "-c", LISTEN])
        stack.callback(kill_session, listener)
        assert listener.stdout is not None
        assert listener.stdout.readline() == "up\n"
        watcher = near.start([sys.executable, "-c", WATCH, address], environment=environment())
        stack.callback(kill_session, watcher)
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "up\n"
        stopped = [pid for machine in (near, far) for pid, name in machine.processes().items() if " -c " in name]
        time.sleep(2.0)  # the watcher reaches it
        for pid in stopped:  # both ends
            os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_SECONDS)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        time.sleep(2.0)
        switch.unplug(far)  # whatever was said before is the first line
        assert watcher.stdout.readline() == "silent\n"
        switch.plug_in_again(far)
        assert watcher.stdout.readline() == "live\n"
        for pid in far.processes():
            if pid in stopped:
                os.kill(pid, signal.SIGKILL)
        assert watcher.stdout.readline() == "gone\n"
