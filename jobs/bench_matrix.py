"""The bandwidth of a whole cluster as a job, with the flags of `latentmas bench transfer`; it measures the cluster that
it runs on:

ray job submit --working-dir . -- python jobs/bench_matrix.py --concurrent 4
"""

import sys

from latentmas_ray.cli.main import main

flags = sys.argv[1:]
sys.exit(main(["bench", "transfer", *([] if "--pairs" in flags else ["--pairs", "all"]), *flags]))
