"""The timeline of one run as a page of its own, and both files of a run."""

from collections.abc import Iterator
from pathlib import Path

from latentmas_ray.errors import JournalError
from latentmas_ray.report.runs import FinishedRun
from latentmas_ray.report.template_files import template_environment, template_text
from latentmas_ray.report.timeline.picture import make_pictures
from latentmas_ray.report.timeline.trace_file import trace_file
from latentmas_ray.runs.folder import write_atomically
from latentmas_ray.runs.timeline import TIMELINE_NAME

PAGE_NAME = "timeline.html"


def write_timeline(run: FinishedRun, page: Path, trace: Path) -> Iterator[tuple[Path, int]]:
    """Write the page and the trace file of a run; yield each with its size. Raises JournalError if the run recorded no
    times, and OSError."""
    if (timeline := run.timeline) is None:
        expected = f"it has no {TIMELINE_NAME}: runs of older versions recorded no times; run it again for a timeline"
        raise JournalError("run", str(run.folder), expected)
    if not any(start.turns for start in timeline.starts):
        is_over = all(start.end is not None for start in timeline.starts)
        expected = f"no turn of it is in {TIMELINE_NAME}" + ("" if is_over else " yet; wait until one has finished")
        raise JournalError("run", str(run.folder), expected)
    title = f"{run.config.task}, {run.config.topology}, {run.config.method}, {run.config.model_names}"
    style = template_text("report.css") + template_text("timeline.css")
    template = template_environment().get_template("timeline_page.html.jinja")
    html = template.render(title=title, pictures=make_pictures(timeline), style=style)
    for path, content in ((page, html.encode(errors="replace")), (trace, trace_file(timeline, title=title))):
        write_atomically(path, content)
        yield path, len(content)
