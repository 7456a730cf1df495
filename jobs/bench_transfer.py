"""`latentmas bench transfer` as a job on a cluster, with the same flags; it joins the cluster that it runs on:

ray job submit --working-dir . -- python jobs/bench_transfer.py --tokens 64,1024,8192
"""

import sys

from latentmas_ray.cli.main import main

sys.exit(main(["bench", "transfer", *sys.argv[1:]]))
