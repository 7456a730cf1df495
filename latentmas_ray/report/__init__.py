"""Reads finished runs from their output folders, compares them, and makes the HTML report.

runs          `load_run` reads the folder of one run, `load_runs` also a folder with one run per seed
inspect       one traced question of a run
compare       compares several folders; `compared_run` has the figures of each
published     published results for the same model, task and topology
labels        moves overlapping labels apart
html          the HTML report
"""

from latentmas_ray.report.runs import FinishedRun, load_run, load_runs

__all__ = ["FinishedRun", "load_run", "load_runs"]
