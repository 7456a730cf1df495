"""Job, its Limits, its Outcome, and the Confinement that a machine allows."""

from dataclasses import dataclass, field

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one job. Those on files and CPU time apply to each of its processes."""

    wall_seconds: float = 180.0  # three times cpu_seconds, so that a busy machine does not fail right programs
    cpu_seconds: int = 60  # the slowest known right solution takes 20 to 30
    memory_bytes: int = 4096 * MIB  # of all its processes together, with their files in memory
    num_processes: int = 4  # of the program; threads count as processes
    file_bytes: int = 16 * MIB  # of one file
    folder_bytes: int = 64 * MIB  # of all its files, if its folder can be a separate file system
    num_open_files: int = 64


@dataclass(frozen=True, kw_only=True)
class Job:
    """A program and its tests. The tests run in a process of their own, and what they do not define is the program's.

    It passes if the program and then the tests end without an exception. Without a program, the tests run alone.
    `given` runs before the tests in their module; the classes of it that `shared` names are the program's too, and
    their objects cross as data. `tested` names what is the program's even where Python has such a name (`sum`).
    `needs_confinement=False`: it runs within the same limits also on a machine that cannot confine it. `import_paths`
    are folders from which it may import as well.
    """

    program: str | None
    tests: str
    given: str = ""
    shared: tuple[str, ...] = ()
    tested: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    needs_confinement: bool = True
    import_paths: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Whether a job passed, and if not, the reason in one line."""

    passed: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What confines a program on this machine."""

    has_own_root: bool  # it sees only the files that Python needs, by name too
    landlock: int  # the version of Landlock; 0: none
    has_filter: bool  # of system calls
    has_no_network: bool
    has_own_processes: bool
    counts_memory: bool  # the kernel does (a control group); otherwise the supervisor does, many times a second
