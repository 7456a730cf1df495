"""The templates of pages, and the files that are put into them."""

from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined


@cache
def template_environment() -> Environment:
    """Return what renders templates: all text is escaped, and a name that is missing is an error."""
    return Environment(
        loader=PackageLoader("latentmas_ray.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def template_text(name: str) -> str:
    """Return a file of the templates' folder, such as a style sheet, as it is."""
    return files("latentmas_ray.report").joinpath("templates", name).read_text(encoding="utf-8")
