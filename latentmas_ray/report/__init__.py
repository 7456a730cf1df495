"""What runs left behind, read back: compared, shown in the terminal, and drawn.

`read_run` reads an output folder.
"""

from latentmas_ray.report.runs import FinishedRun, read_run

__all__ = ["FinishedRun", "read_run"]
