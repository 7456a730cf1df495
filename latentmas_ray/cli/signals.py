"""SIGTERM and SIGHUP end a command as Ctrl-C does: results are saved, actors are shut down, then the exit code is 143
or 129.

`ray job stop`, Slurm, Kubernetes and systemd send SIGTERM, and SIGKILL a few seconds later; a closed terminal sends
SIGHUP.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@dataclass
class StopSignal:
    """The stop signal that a command has received, if any."""

    number: signal.Signals | None = None

    @property
    def exit_code(self) -> int | None:
        """128 plus the signal's number, as shells report it; None without a signal."""
        return None if self.number is None else 128 + self.number


@contextmanager
def stop_signals_interrupt() -> Iterator[StopSignal]:
    """Raise KeyboardInterrupt in the main thread at the first stop signal; ignore those that follow, because wrappers
    forward the same signal twice. Yields a record of the signal.

    The record tells a stop from Ctrl-C: while Ray waits, it replaces the exception of a handler by a KeyboardInterrupt
    of its own. A signal that is ignored already, as SIGHUP under nohup, stays so. Does nothing in other threads, which
    cannot set handlers.
    """
    received = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if received.number is None:
            received.number = signal.Signals(number)
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    changed = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield received
    finally:
        if received.number is None:  # else the process is about to exit, and a second signal must not kill it
            for number in changed:
                signal.signal(number, before[number])
