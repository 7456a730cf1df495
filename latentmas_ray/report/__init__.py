"""What runs left behind, read back: compared, shown in the terminal, and drawn.

`read_run` reads the output folder of one run, `read_runs` that of one run or of one a seed;
`compare.compare_folders` puts several beside one another.
"""

from latentmas_ray.report.runs import FinishedRun, read_run, read_runs

__all__ = ["FinishedRun", "read_run", "read_runs"]
