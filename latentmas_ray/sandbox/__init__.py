"""Runs untrusted programs in a sandbox. Linux and the standard library only.

`run_program` runs a program and then its tests in a process without network, without this process's environment, with
write access only to its own temporary folder, and with limits on CPU time, memory, processes, files and wall time.

job.py           Job, Limits, Outcome
run.py           the caller's side: starts the supervisor, waits, cleans up
supervisor.py    the process in between: sets up the sandbox, starts the child in it, reports the verdict
child.py         the program's process: drops its privileges, then runs the program and its tests
namespaces.py    isolation by namespaces: no network, no other processes, a read-only file system
landlock.py      isolation by Landlock, which needs no privilege: only the files that Python needs
system_calls.py  system calls for which Python has no function
"""

from latentmas_ray.sandbox.job import Job, Limits, Outcome
from latentmas_ray.sandbox.run import find_obstacle, run_program

__all__ = ["Job", "Limits", "Outcome", "find_obstacle", "run_program"]
