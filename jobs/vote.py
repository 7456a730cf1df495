"""`latentmas vote` as a job on a cluster, with the same flags; the folders must be where the job runs:

ray job submit --working-dir . -- python jobs/vote.py /shared/runs/a /shared/runs/b --output /shared/runs/voted
"""

import sys

from latentmas_ray.cli.main import main

sys.exit(main(["vote", *sys.argv[1:]]))
