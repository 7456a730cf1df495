"""One driver as a process of its own, seen from the run's."""

import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from latentmas_ray.system.drivers.messages import Message, read_message, write_message

# The package is that of this process, wherever that found it.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from latentmas_ray.system.drivers.child import main; sys.exit(main())"
)
END_SECONDS = 30.0  # for a driver to shut down its actors


class DriverProcess:
    """A driver process. Its messages come to `inbox` in order, each with this object; None when it has ended."""

    def __init__(
        self, number: int, setup: Mapping[str, Any], inbox: "SimpleQueue[tuple[DriverProcess, Message | None]]"
    ) -> None:
        """Start it, and send it what to set up. Its errors are written to this process's stderr."""
        self.number = number
        self._inbox = inbox
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(Path(__file__).parents[3])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the run's process, which ends its drivers
        )
        self._reader = threading.Thread(target=self._read, name=f"driver {number + 1}", daemon=True)
        self._reader.start()
        self.send(**setup)

    @property
    def name(self) -> str:
        """Its name for messages."""
        return f"driver {self.number + 1}"

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def send(self, **message: Any) -> None:
        """Send a message; nothing, if the process has ended: `inbox` says so."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            write_message(self._process.stdin, **message)

    def how_it_ended(self) -> str:
        """Return what became of a process that has closed its output."""
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"it was ended by signal {-code}" if code < 0 else f"it ended with code {code}"

    def ask_to_end(self) -> None:
        """Let it shut down its actors and end. Safe to call twice."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait for the end, and kill a process that does not come to it."""
        self.how_it_ended()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if (message := read_message(line)) is not None:
                self._inbox.put((self, message))
        self._inbox.put((self, None))
