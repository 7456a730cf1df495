"""How a process is confined; each part works alone, and says by OSError where the machine lacks it.

isolation.py     namespaces: no network, no other processes, a root of its own with only the files that Python needs
bubblewrap.py    the same by another program, where only that may
landlock.py      Landlock, without privilege: only the files that Python needs, no signals to processes outside
seccomp.py       a filter of system calls, without privilege
memory.py        one bound on the memory of all processes of a job
system_calls.py  system calls for which Python has no function
"""
