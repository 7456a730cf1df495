"""`latentmas bench serve`: its flags, and its figures as tables and plot."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentmas_ray.bench.serve.settings import ServeBenchSettings
from latentmas_ray.cli.commands.bench.measure import measure_and_show
from latentmas_ray.cli.commands.bench.settings_flags import settings_flags
from latentmas_ray.cli.unused_flags import tell_unused
from latentmas_ray.errors import RunError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from latentmas_ray.bench.serve.measure import ServeBench


@settings_flags(ServeBenchSettings)
def serve(
    given: Mapping[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Measure a server under load, as its clients see it: times, errors, and the memory of its processes.

    Closed loops have so many clients; open loops have requests that come at random times (Poisson), whether the server
    keeps up or not, and times count from there. All answers are greedy and streamed, and it is counted which of them
    are not those of the first load. With a key, put it into LATENTMAS_API_KEY. docs/serving.md explains the columns.
    """
    tell_unused("bench serve", {"url": None, "rates": (), **given})
    settings = ServeBenchSettings(**given)
    outcome = measure_and_show(
        partial(_measure, settings), _tables, _draw, plot=settings.plot, output=settings.output, as_json=as_json
    )
    if outcome.unanswered:
        raise RunError(f"no request was answered of {'; '.join(outcome.unanswered)}")


def _measure(settings: ServeBenchSettings, say: Callable[[str], None]) -> "ServeBench":
    if find_spec("aiohttp") is None:
        raise RunError("a server is asked with aiohttp: pip install '.[serve]' in a checkout")
    from latentmas_ray.bench.serve.measure import run

    return run(settings, say)


def _tables(outcome: "ServeBench") -> "RenderableType":
    from latentmas_ray.cli.render.bench.serve_tables import serve_tables

    return serve_tables(outcome)


def _draw(outcome: "ServeBench", plot: str) -> None:
    from latentmas_ray.bench.serve.plot import draw_load

    draw_load(outcome, plot)
