"""What runs left behind, read back: compared, shown in the terminal, and drawn.

`load_run` reads the output folder of one run, `load_runs` that of one run or of one a seed;
`compare.compare_folders` puts several beside one another.
"""

from latentmas_ray.report.runs import FinishedRun, load_run, load_runs

__all__ = ["FinishedRun", "load_run", "load_runs"]
