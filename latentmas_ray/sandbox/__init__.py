"""Runs untrusted programs in a sandbox. Linux and the standard library only.

`run_program` runs a program, and its tests in another process, without network, without this process's environment,
in a file system with only what Python needs, with few system calls, and with limits on CPU time, memory, processes,
files and wall time. The tests ask the program's process, which answers with data: it cannot write the verdict itself.

job.py           Job, Limits, Outcome, Confinement
run.py           the caller's side: starts the supervisor, waits, cleans up
supervisor.py    the process in between: sets up the sandbox, starts two processes in it, reports the verdict
child.py         the program's and the tests' process: each drops its privileges first
confine/         namespaces, Landlock, the filter of system calls, the bound on memory
exchange/        what crosses between the two processes
"""

from latentmas_ray.sandbox.job import Confinement, Job, Limits, Outcome
from latentmas_ray.sandbox.run import find_confinement, find_obstacle, run_program

__all__ = ["Confinement", "Job", "Limits", "Outcome", "find_confinement", "find_obstacle", "run_program"]
