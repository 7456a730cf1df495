"""The fault campaign: seeded schedules of faults on a cluster of three nodes that is kept between them.

    python -m tests.multinode.campaign --seeds 0-199 --log campaign.jsonl

`schedule.py` draws what happens, `faults.py` makes it happen, `nodes.py` keeps the cluster whole, `one_run.py` watches
a run to its end and judges it, `log.py` has one line for each seed, which a later call continues.
"""
