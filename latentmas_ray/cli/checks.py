"""The checks of `latentmas doctor`: one `Check` per fact, with what it means for a run."""

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from latentmas_ray.config.address import split_address
from latentmas_ray.env import Environment
from latentmas_ray.units import format_bytes
from latentmas_ray.vllm.installed import HOW_TO_INSTALL, WANTED, find_vllm

DISTRIBUTION = "latentmas-ray"
NAMED_PACKAGES = ("torch", "transformers", "ray")
CONNECT_SECONDS = 3.0
STATUS_SECONDS = 30.0
_SMALL_SHM_BYTES = 2 * 10**9


class Mark(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    mark: Mark
    subject: str
    finding: str


def software_checks() -> Iterator[Check]:
    """Python, this package, and every package it requires, against the versions that its metadata asks for."""
    python = platform.python_version().removesuffix("+")  # which marks a build between two releases
    yield _version_check("python", python, SpecifierSet(metadata(DISTRIBUTION)["Requires-Python"]))
    yield Check(Mark.OK, DISTRIBUTION, version(DISTRIBUTION))
    others, num_good = [], 0
    for requirement in _required_packages():
        name, check = requirement.name, _package_check(requirement)
        if name in NAMED_PACKAGES or check.mark is not Mark.OK:
            yield check
        else:
            others.append(name)
            num_good += 1
    yield Check(Mark.OK, "other packages", f"{num_good} present: {', '.join(others)}")
    yield vllm_check()


def vllm_check() -> Check:
    """Whether agents can write text with vLLM, which no run needs."""
    if (found := find_vllm()) is None:
        return Check(Mark.OK, "vllm", f"not installed, so transformers writes all texts; {HOW_TO_INSTALL}")
    if not found.is_wanted:
        return Check(Mark.WARN, "vllm", f"{found}; agents write with {WANTED} alone: {HOW_TO_INSTALL}")
    return Check(Mark.OK, "vllm", f"{found}: agents can write text with it (--engine)")


def machine_checks(environment: Environment) -> Iterator[Check]:
    """Cores, memory, accelerators, shared memory, the cache folder, and what confines programs."""
    yield Check(Mark.OK, "CPU", f"{num_cores()} cores, {format_bytes(memory_bytes())} of memory")
    yield from _device_checks()
    yield transports_check()
    yield shared_memory_check(Path("/dev/shm"))
    yield _cache_check(environment.cache_dir)
    yield programs_check()


def transports_check() -> Check:
    """Which transports can move memory between actors here, and what the others lack; a run does with any of them."""
    try:
        from latentmas_ray.transport.make import TRANSPORTS, missing_needs
    except (ImportError, OSError):  # torch does not load, which a check of its own says
        return Check(Mark.WARN, "transports", "not known without torch")
    lacks = missing_needs()
    here = [name for name in TRANSPORTS if name not in lacks and name != "loopback"]
    absent = [f"{name} ({needed})" for name, needed in lacks.items()]
    return Check(Mark.OK, "transports", "; not here: ".join(filter(None, (", ".join(here), ", ".join(absent)))))


def cluster_check(address: str | None) -> Check:
    """Whether a Ray cluster answers at `address`."""
    if address is None or address == "local":
        return Check(Mark.OK, "ray cluster", "no address given: a run starts its own Ray on this machine")
    problem = _connection_problem(address)
    if problem is not None:
        return Check(Mark.FAIL, "ray cluster", f"{address}: {problem}")
    return _status_check(address)


def outlook(checks: list[Check]) -> Iterator[Check]:
    """Say which features work on this machine, given all other checks."""
    failed = {check.subject for check in checks if check.mark is Mark.FAIL}
    engine = failed - {"ray", "ray cluster"}
    yield _capability("--runtime local", "one process, no Ray", engine)
    yield _capability("--runtime ray", "one actor per agent", failed)
    if not any(check.subject.startswith("GPU") and check.mark is Mark.OK for check in checks):
        yield Check(Mark.WARN, "large models", "no GPU: fine for tiny and small models, slow from about 1B parameters")


def shared_memory_check(folder: Path) -> Check:
    """Check the size of `folder`, where Ray stores objects; if it is too small, Ray uses a slow disk."""
    if not folder.is_dir():
        return Check(Mark.WARN, str(folder), "does not exist: Ray stores memory on disk, which is slow")
    size = shutil.disk_usage(folder).total
    if size < _SMALL_SHM_BYTES:
        advice = f"below {format_bytes(_SMALL_SHM_BYTES)} Ray may use a slow disk; in Docker: --shm-size=8g"
        return Check(Mark.WARN, str(folder), f"{format_bytes(size)}: {advice}")
    return Check(Mark.OK, str(folder), format_bytes(size))


def programs_check() -> Check:
    """Say what confines a program that is graded (tasks of kind code)."""
    from latentmas_ray.sandbox import find_confinement, find_obstacle

    found = find_confinement()
    if found is None:
        return Check(Mark.WARN, "programs", f"code is not graded without --unsafe-programs: {find_obstacle()}")
    means = [
        "a root of its own" if found.has_own_root else "no root of its own (names and sizes of files can be seen)",
        f"Landlock {found.landlock}" if found.landlock else "no Landlock",
        "a filter of system calls",
        "no network" if found.has_no_network else "no network but for the filter",
        "memory counted by the kernel" if found.counts_memory else "memory counted by the supervisor",
    ]
    return Check(Mark.OK if found.has_own_root else Mark.WARN, "programs", f"confined by {', '.join(means)}")


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the bytes of memory of the machine, or of the container if that has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdigit() else total


def _required_packages() -> Iterator[Requirement]:
    """Yield the requirements of this package without its extras."""
    for requirement in map(Requirement, requires(DISTRIBUTION) or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _package_check(requirement: Requirement) -> Check:
    try:
        return _version_check(requirement.name, version(requirement.name), requirement.specifier)
    except PackageNotFoundError:
        return Check(Mark.FAIL, requirement.name, f"not installed; {_wanted(requirement.specifier)} is needed")


def _version_check(name: str, found: str, wanted: SpecifierSet) -> Check:
    # A development version was installed on purpose, so it counts as the release that it precedes.
    if not wanted.contains(found, prereleases=True):
        return Check(Mark.FAIL, name, f"{found}; {_wanted(wanted)} is needed")
    return Check(Mark.OK, name, found)


def _wanted(specifiers: SpecifierSet) -> str:
    """Return `1.2 or newer`, or the specifiers as they are written."""
    only = next(iter(specifiers)) if len(specifiers) == 1 else None
    return f"{only.version} or newer" if only is not None and only.operator == ">=" else str(specifiers)


def _device_checks() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of torch does not load
        yield Check(Mark.FAIL, "torch", f"installed, but does not load: {error}")
        return
    if not torch.cuda.is_available():
        yield Check(Mark.WARN, "GPU", f"none that torch {torch.__version__} can use; models run on the CPU")
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield Check(Mark.OK, f"GPU {index}", f"{device.name}, {format_bytes(device.total_memory)}")


def _cache_check(folder: Path) -> Check:
    with suppress(OSError):  # a folder above may not be read
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if nearest.is_dir() and os.access(nearest, os.W_OK):
            return Check(Mark.OK, "cache folder", str(folder))
    return Check(Mark.WARN, "cache folder", f"{folder} cannot be written: realignment is computed again in every run")


def _connection_problem(address: str) -> str | None:
    """Return why no cluster can be joined at `address`; None if its port answers, and for `auto`."""
    try:
        host_and_port = split_address(address)
        if host_and_port is not None:
            socket.create_connection(host_and_port, timeout=CONNECT_SECONDS).close()
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"nothing answers ({error})"
    return None


def _status_check(address: str) -> Check:
    """Run `ray status`: an open port alone may belong to any service."""
    command = Path(sys.executable).with_name("ray")
    arguments = [str(command), "status"] if address == "auto" else [str(command), "status", "--address", address]
    try:
        status = subprocess.run(arguments, capture_output=True, text=True, timeout=STATUS_SECONDS, check=False)
    except FileNotFoundError:
        return Check(
            Mark.WARN, "ray cluster", f"{address}: the port answers; the ray command is missing to look closer"
        )
    except subprocess.TimeoutExpired:
        return Check(Mark.FAIL, "ray cluster", f"{address}: no status within {STATUS_SECONDS:.0f} s")
    if status.returncode != 0:
        lines = (status.stderr.strip() or status.stdout.strip() or "no message").splitlines()
        return Check(Mark.FAIL, "ray cluster", f"{address}: ray status failed: {lines[-1].strip()}")
    resources = re.findall(r"[\d.]+/([\d.]+) (CPU|GPU)\b", status.stdout)
    return Check(Mark.OK, "ray cluster", f"{address}: " + (", ".join(f"{n} {kind}" for n, kind in resources) or "up"))


def _capability(subject: str, what: str, missing: set[str]) -> Check:
    if missing:
        return Check(Mark.FAIL, subject, f"will not work: see {', '.join(sorted(missing))}")
    return Check(Mark.OK, subject, f"works ({what})")
