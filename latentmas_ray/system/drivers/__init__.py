"""Several processes that drive one evaluation: each has a part of its questions, of its replicas and of the cluster.

messages    what the run's process and its drivers tell each other, as lines of JSON
journals    each driver's own journal in the run's folder, and how it joins the run's
process     one driver as a process, seen from the run's
drivers     the drivers of a run: divides the work, passes the results on, starts a driver again that dies
child       the process of a driver
"""
