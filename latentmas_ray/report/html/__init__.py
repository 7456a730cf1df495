"""The HTML report: one self-contained page about runs.

`make_page` makes the page. `groups` and `entries` order and name the runs; each other module makes one section as plain
data for the templates.
"""

from latentmas_ray.report.html.page import make_page

__all__ = ["make_page"]
