"""Job, its Limits, and its Outcome."""

from dataclasses import dataclass, field

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one program. Those on memory, files and CPU time apply to each of its processes."""

    wall_seconds: float = 180.0  # three times cpu_seconds, so that a busy machine does not fail right programs
    cpu_seconds: int = 60  # the slowest known right solution takes 20 to 30
    memory_bytes: int = 4096 * MIB  # of address space
    num_processes: int = 4  # threads count as processes
    file_bytes: int = 16 * MIB  # of one file
    folder_bytes: int = 64 * MIB  # of all its files, if its folder can be a separate file system
    num_open_files: int = 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """A program and its tests, which run after it in the same module. It passes if both end without an exception.

    `is_trusted`: the program is this package's own. It runs within the same limits, but also on a machine that cannot
    confine it, and may import from `import_paths`.
    """

    program: str
    tests: str
    limits: Limits = field(default_factory=Limits)
    is_trusted: bool = False
    import_paths: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Whether a job passed, and if not, the reason in one line."""

    passed: bool
    reason: str = ""
