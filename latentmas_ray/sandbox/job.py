"""What is run in a sandbox, within which limits, and what came of it."""

from dataclasses import dataclass, field

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one program. Memory, files and processor time are bounded for each of its processes."""

    wall_seconds: float = 180.0  # three times the next, so that a busy machine fails nobody
    cpu_seconds: int = 60  # the slowest of the known right solutions takes 20 to 30
    memory_bytes: int = 4096 * MIB  # of address space
    num_processes: int = 4  # threads count as processes
    file_bytes: int = 16 * MIB  # of one file
    folder_bytes: int = 64 * MIB  # of all its files, where the folder can be a file system of its own
    num_open_files: int = 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """A program and the tests that run after it in the same module; it has passed if both come to their end.

    A `is_trusted` job is text of our own: it runs within the same limits, but also where nothing can confine it, and
    may import from `import_paths`.
    """

    program: str
    tests: str
    limits: Limits = field(default_factory=Limits)
    is_trusted: bool = False
    import_paths: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Whether a job has passed; if not, one line that says why."""

    passed: bool
    reason: str = ""
