"""The timeline of a run whose folder is on the cluster's disk, as a job with the flags of `latentmas timeline`:

ray job submit --working-dir . -- python jobs/timeline.py /shared/runs/a --output /shared/runs/a.html
"""

import sys

from latentmas_ray.cli.main import main

sys.exit(main(["timeline", *sys.argv[1:]]))
