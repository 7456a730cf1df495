"""One self-contained HTML page about runs.

`make_page` is the page; everything else here makes one of its sections, as plain data for the templates.
"""

from latentmas_ray.report.html.page import make_page

__all__ = ["make_page"]
