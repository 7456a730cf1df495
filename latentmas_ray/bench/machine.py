"""What a benchmark ran on."""

import os
import platform


def processor() -> str:
    """The processor's name and the number of cores."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123  not a file
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"
