"""The description of the machine that a benchmark runs on, and the type of its progress log."""

from collections.abc import Callable

from latentmas_ray.runs.environment import describe_processor as processor

__all__ = ["Log", "processor"]

Log = Callable[[str], None]  # called with a line per measurement
