"""The description of the machine that a benchmark runs on, and the type of its progress log."""

import os
import platform
from collections.abc import Callable

Log = Callable[[str], None]  # called with a line per measurement


def processor() -> str:
    """Return the processor's name and number of cores."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123  not a file
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"
