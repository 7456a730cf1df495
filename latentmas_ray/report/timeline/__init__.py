"""The timeline of a run: as a picture in HTML, and as a trace file for Perfetto."""

from latentmas_ray.report.timeline.picture import TimelinePicture, make_pictures
from latentmas_ray.report.timeline.trace_file import trace_file

__all__ = ["TimelinePicture", "make_pictures", "trace_file"]
