"""Makes the faults of a schedule happen, and undoes those that last for some seconds."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from tests.multinode.campaign.nodes import Nodes
from tests.multinode.campaign.schedule import Fault

Undo = Callable[[], object]


class Faults:
    """The faults that last at the moment, and when each ends."""

    def __init__(self, nodes: Nodes, kill_driver: Callable[[], object]) -> None:
        """`kill_driver` kills the run's driver and starts another that continues."""
        self._nodes = nodes
        self._kill_driver = kill_driver
        self._lasting: list[tuple[float, Undo]] = []

    def start(self, fault: Fault) -> bool:
        """Make it happen; return False if there is nothing yet that it could happen to."""
        if fault.kind == "kill driver":
            self._kill_driver()
            return True
        if fault.pick is not None:
            return self._hit_actor(fault, fault.pick)
        assert fault.node is not None
        if (undo := self._hit_node(fault, fault.node)) is not None:
            assert fault.seconds is not None
            self._lasting.append((time.monotonic() + fault.seconds, self._unless_replaced(fault.node, undo)))
        return True

    def end_some(self) -> bool:
        """Undo what has lasted long enough; return whether something was undone."""
        over = [one for one in self._lasting if one[0] <= time.monotonic()]
        for one in over:
            self._lasting.remove(one)
            one[1]()
        return bool(over)

    def end_all(self) -> None:
        """Undo the rest."""
        while self._lasting:
            self._lasting.pop()[1]()

    def _hit_actor(self, fault: Fault, pick: int) -> bool:
        actors = self._nodes.actors()
        if not actors:
            return False
        actor = actors[pick % len(actors)]
        with suppress(ProcessLookupError):
            if fault.seconds is None:
                os.kill(actor, signal.SIGKILL)
            else:
                os.kill(actor, signal.SIGSTOP)
                self._lasting.append((time.monotonic() + fault.seconds, lambda: _continue(actor)))
        return True

    def _hit_node(self, fault: Fault, node: int) -> Undo | None:
        """Do it, and return what undoes it, if anything does."""
        nodes, cluster = self._nodes, self._nodes.cluster
        if fault.kind == "crash node":
            cluster.crash(node)
        elif fault.kind == "silence node":
            cluster.power_off(node)
        elif fault.kind == "join node":
            nodes.join(node, wait=False)
        elif fault.kind == "drain node":
            assert fault.seconds is not None
            nodes.drain(node, fault.seconds)
            return lambda: cluster.crash(node)
        elif fault.kind == "stop node":
            nodes.signal(node, signal.SIGSTOP)
            return lambda: nodes.signal(node, signal.SIGCONT)
        elif fault.kind == "cut link":
            cluster.cut_off(node)
            return lambda: cluster.reconnect(node)
        else:
            assert fault.kind == "slow link", fault.kind
            assert fault.megabits is not None
            cluster.slow_down(node, fault.megabits)
            return lambda: cluster.speed_up(node)
        return None

    def _unless_replaced(self, node: int, undo: Undo) -> Undo:
        """A machine that came back meanwhile has nothing of its forerunner's."""
        machine = self._nodes.cluster.machines[node]
        return lambda: None if self._nodes.cluster.machines[node] is not machine or machine.is_off else undo()


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
