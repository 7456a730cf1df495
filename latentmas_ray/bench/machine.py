"""What a benchmark ran on, and where it says how far it is."""

import os
import platform
from collections.abc import Callable

Log = Callable[[str], None]  # gets a line when something is measured


def processor() -> str:
    """The processor's name and the number of cores."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123  not a file
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"
