"""Several processes that drive one evaluation: each has a part of its questions, of its replicas and of the cluster.

messages    what the run's process and its drivers tell each other, as lines of JSON
journals    each driver's own journal in the run's folder, and how it joins the run's
process     one driver as a process, seen from the run's
drivers     the drivers of a run: started, started again, and ended
division    one run, divided among them: who has which batches, and what all of them report
child       the process of a driver
"""
