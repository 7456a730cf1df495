"""The timeline of a run: when and where each turn ran, and which replicas and nodes came and went."""

from latentmas_ray.runs.timeline.read import RunTimeline, StartTimeline, read_timeline
from latentmas_ray.runs.timeline.recorder import TIMELINE_NAME, TimelineRecorder

__all__ = ["TIMELINE_NAME", "RunTimeline", "StartTimeline", "TimelineRecorder", "read_timeline"]
