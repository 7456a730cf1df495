"""Signals while a server starts: from the first line of the command, over imports that take seconds, until the server
handles them itself. Nothing heavy is imported here."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NoReturn

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)


class StartSignals:
    """What signals did before the server was there."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` gets lines for the user. A line that cannot be written is lost."""
        self._tell = tell
        self.has_hung_up = False  # SIGHUP came: the topologies are to be read again once the models are loaded
        self.is_over = False  # the server has run, and what is left ends by itself

    @contextmanager
    def handled(self) -> Iterator["StartSignals"]:
        """Handle SIGTERM and SIGINT, which end the process, and SIGHUP, which does not. Other threads than the main one
        cannot handle any. SIGHUP that is ignored, as under nohup, stays so."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = [*_ENDING] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*_ENDING, signal.SIGHUP]
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            signal.signal(number, self._on_signal)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.is_over:
            return
        if number == signal.SIGHUP:
            self.has_hung_up = True
            return
        # Nothing runs yet, and an import must not be left half done: what else it would do is not ours.
        with suppress(OSError, ValueError, RuntimeError):
            self._tell(f"{signal.Signals(number).name}: stopped before the models were loaded")
        end_process()


def end_process() -> NoReturn:
    """End this process now, with what it has printed and exit code 0."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader has gone
            stream.flush()
    os._exit(0)
