"""What made a run's figures beside its settings: versions that decide what is computed and graded, and where it ran."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

_COMPUTE = ("latentmas-ray", "torch", "transformers")
_GRADE = ("datasets", "math-verify")  # of the extra `eval`: other versions may load or grade otherwise


def made_with(runtime: str, description: str | None) -> dict[str, str]:
    """Versions by package, and under `runtime` how a runtime that was started describes itself (devices, placement).

    They are those of the driver's process; a cluster's actors run what its nodes have installed.
    """
    packages = (*_COMPUTE, *(("ray",) if runtime == "ray" else ()), *_GRADE)
    found = {"python": platform.python_version()} | {name: _version(name) for name in packages}
    return {name: number for name, number in found.items() if number} | (
        {"runtime": description} if description is not None else {}
    )


def versions_line(made: Mapping[str, str]) -> str:
    """The versions on one line: `python 3.12.1, torch 2.9.0, …`; the runtime's description is not in it."""
    return ", ".join(f"{name} {number}" for name, number in made.items() if name != "runtime")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
