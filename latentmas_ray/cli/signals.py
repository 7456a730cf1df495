"""SIGTERM and SIGHUP end a command as Ctrl-C does: results are saved, actors are shut down, then the exit code is 143
or 129.

`ray job stop`, Slurm, Kubernetes and systemd send SIGTERM, and SIGKILL a few seconds later; a closed terminal sends
SIGHUP.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class TerminatedError(KeyboardInterrupt):
    """A stop signal arrived. A KeyboardInterrupt, so that everything that cleans up after Ctrl-C does it here too."""

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum

    def __str__(self) -> str:
        return f"terminated by {signal.Signals(self.signum).name}"

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells report it."""
        return 128 + self.signum


@contextmanager
def stop_signals_raise() -> Iterator[None]:
    """Raise `TerminatedError` in the main thread at the first stop signal; the ones that follow are ignored, because
    wrappers forward the same signal twice.

    A signal that is ignored already, as SIGHUP under nohup, stays so. Does nothing in other threads, which cannot set
    handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_stopping = False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if not is_stopping:
            is_stopping = True
            raise TerminatedError(signum)

    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    changed = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in [] if is_stopping else changed:  # the process is about to exit: a second signal must not kill it
            signal.signal(number, before[number])
