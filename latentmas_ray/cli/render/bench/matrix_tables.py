"""The figures of `latentmas bench transfer --pairs` as tables, readable at 60 columns."""

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.bench.transfer_tables import format_gigabytes, make_table
from latentmas_ray.units import format_bytes

if TYPE_CHECKING:
    from latentmas_ray.bench.matrix.figures import GroupFigures, LinkFigures, MatrixBench, SlowLink

_MAX_ENDS = 16  # of a matrix that is shown; a larger one is in the JSON object and in the plot
_MAX_SLOW = 20
_LIMITS = {"same_gpu": "no reference", "same_node": "memcpy", "cross_node": "TCP"}
_SLOW_WHAT = {"limit": "the link itself", "transfer": "only transfers over it"}


def matrix_tables(outcome: "MatrixBench") -> RenderableType:
    """Return the matrix, each kind of link, several transfers at once, the slow links and what was lost."""
    settings = outcome.settings
    title = (
        f"{settings.model}, segments of {format_bytes(outcome.num_bytes)}: {outcome.machine}; "
        f"medians of {settings.repeats}"
    )
    rendered: list[RenderableType] = ["", title]
    for heading, table in _parts(outcome):
        rendered += ["", Text(heading, style="bold"), table]
    return Group(*rendered, *_slow_lines(outcome), *_lost_lines(outcome))


def _parts(outcome: "MatrixBench") -> Iterator[tuple[str, Table]]:
    if len(outcome.ends) <= _MAX_ENDS:
        yield "each pair alone: GB/s and % of the link; rows send", _matrix(outcome)
    yield "each kind of link: GB/s, % of its reference", _kinds(outcome)
    if outcome.incast:
        yield (
            "several senders to one reader, all to all: GB/s together, % of as many plain TCP streams",
            _groups(outcome),
        )


def _matrix(outcome: "MatrixBench") -> Table:
    numbers = {name: number for number, name in enumerate(outcome.ends, start=1)}
    cells = {(link.source, link.reader): _cell(link) for link in outcome.links}
    table = make_table([f"→ {number}" for number in numbers.values()], "")
    for source, number in numbers.items():
        table.add_row(f"{number} {source}", *(cells.get((source, reader), "") for reader in outcome.ends))
    return table


def _cell(link: "LinkFigures") -> str:
    if link.bytes_per_second is None:
        return "lost"
    return "\n".join(filter(None, (format_gigabytes(link.bytes_per_second), _percent(link.share_of_limit))))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _kinds(outcome: "MatrixBench") -> Table:
    from latentmas_ray.bench.matrix.figures import median_speed

    table = make_table(("links", "slowest", "median", "fastest", "reference", "%"), "")
    for kind in dict.fromkeys(link.kind for link in outcome.links):
        links = [link for link in outcome.links if link.kind == kind and link.bytes_per_second is not None]
        if not links:
            continue
        speeds = sorted(link.bytes_per_second or 0.0 for link in links)
        middle, limit = median_speed(links, kind) or 0.0, median_speed(links, kind, of_limit=True)
        reference = "–" if limit is None else f"{format_gigabytes(limit)} {_LIMITS[kind]}"
        shares = [link.share_of_limit for link in links if link.share_of_limit is not None]
        by = ", ".join(sorted({link.transport for link in links}))
        table.add_row(
            f"{kind.replace('_', ' ')}, {by}",
            str(len(links)),
            *map(format_gigabytes, (speeds[0], middle, speeds[-1])),
            reference,
            f"{100 * median(shares):.0f}" if shares else "–",
        )
    return table


def _groups(outcome: "MatrixBench") -> Table:
    table = make_table(("moves", "GB/s", "TCP", "%"), "")
    shown: list[tuple[str, GroupFigures]] = [(f"to {one.name}", one) for one in outcome.incast]
    if outcome.all_to_all is not None:
        shown.append(("all to all", outcome.all_to_all))
    for name, one in shown:
        if one.bytes_per_second is None or one.limit_bytes_per_second is None:
            table.add_row(name, str(one.num_moves), "lost", "", "")
            continue
        speeds = map(format_gigabytes, (one.bytes_per_second, one.limit_bytes_per_second))
        table.add_row(name, str(one.num_moves), *speeds, _percent(one.share_of_limit).removesuffix(" %"))
    return table


def _slow_lines(outcome: "MatrixBench") -> Iterator[RenderableType]:
    from latentmas_ray.bench.matrix.figures import SLOW_SHARE

    rule = f"below {100 * SLOW_SHARE:.0f} % of the upper quartile of its kind"
    yield ""
    if not outcome.slow:
        yield Text(f"no link is {rule}")
        return
    yield Text(f"slow links ({rule}):", style="bold")
    for one in outcome.slow[:_MAX_SLOW]:
        yield Text(f"  {_describe(one)}", overflow="fold")
    if len(outcome.slow) > _MAX_SLOW:
        yield Text(f"  and {len(outcome.slow) - _MAX_SLOW} more, see --json")


def _describe(one: "SlowLink") -> str:
    return (
        f"{one.source} to {one.reader}: {format_gigabytes(one.bytes_per_second)} GB/s, "
        f"{100 * one.share_of_usual:.0f} % of the usual ({_SLOW_WHAT[one.what]})"
    )


def _lost_lines(outcome: "MatrixBench") -> Iterator[RenderableType]:
    failed = {link.failed for link in outcome.links if link.failed and not link.failed.endswith("was lost")}
    if outcome.lost or failed:
        yield ""
    for name, why in outcome.lost.items():
        yield Text(f"lost: {name}: {why}", style="bold", overflow="fold")
    for why in sorted(failed):
        yield Text(f"not measured: {why}", overflow="fold")
