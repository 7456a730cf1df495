"""`latentmas results`: one table of all measured runs below some folders, and the command that repeats each."""

from latentmas_ray.report.results.find import FoundRuns, LeftOut, find_results
from latentmas_ray.report.results.markdown import to_markdown
from latentmas_ray.report.results.rows import ResultGain, ResultRow, result_rows

__all__ = ["FoundRuns", "LeftOut", "ResultGain", "ResultRow", "find_results", "result_rows", "to_markdown"]
