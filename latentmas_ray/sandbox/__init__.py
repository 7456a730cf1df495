"""Programs that nobody has read, run where they can harm nothing. Linux, standard library only.

`run_program` runs a program and then its tests in a process of its own: no network, no environment, no file that it
could write but its own temporary folder's, bounded processor time, memory, processes, files and seconds.

    run.py         this side: starts the keeper, waits, cleans up
    keeper.py      the process between: makes the sandbox, starts the program in it, and is told what came of it
    inside.py      the program's own process: gives up what it may not have, then runs the program
    namespaces.py  no network, no other process, nothing writable
    landlock.py    no file but those that Python needs, for processes without any privilege too
    kernel.py      the system calls that Python has no function for
"""

from latentmas_ray.sandbox.job import Job, Limits, Outcome
from latentmas_ray.sandbox.run import find_obstacle, run_program

__all__ = ["Job", "Limits", "Outcome", "find_obstacle", "run_program"]
