"""`latentmas eval` as a job on a cluster, with the same flags; it joins the cluster that it runs on:

ray job submit --working-dir . -- python jobs/eval.py --task chain --model tiny --output s3://BUCKET/runs/a

Progress is in the job's log; the job has succeeded if the exit code is 0. It runs in a copy of this folder
that goes with the job: give --output a URL, or the absolute path of a folder that outlives it.
"""

import sys

from latentmas_ray.cli.main import main

sys.exit(main(["eval", *sys.argv[1:]]))
