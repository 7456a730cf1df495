"""Predicted plans as text: questions per second, the use of the devices, and what bounds each."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.placement import HARDWARE, Hardware, LinkSpeeds, Plan, hardware_of_device
from latentmas_ray.placement.prediction.layout_search import LayoutSearch, PredictedPlan
from latentmas_ray.placement.prediction.run_layout import describe_contents, format_rate, run_flags
from latentmas_ray.units import format_fine_seconds


def layout_report(search: LayoutSearch, found: Sequence[PredictedPlan], *, most: int) -> RenderableType:
    """Return what is predicted for the first of `found`, and a comparison of the first `most`."""
    parts: list[RenderableType] = [
        Text(" predicted for this plan", style="bold"),
        _agents(found[0]),
        _notes(search, found[0]),
        "",
    ]
    if len(found) > 1:
        title = f" layouts: the best {most} of {len(found)}" if most < len(found) else f" all {len(found)} layouts"
        parts += [Text(title, style="bold"), _layouts(found[:most])]
    if found[0].layout is not None:
        run = search.run_of(found)
        none = Text(" a run can have none of these layouts so far", style="dim")
        parts += [none if run is None else _flags(search, run[1]), ""]
    return Group(*parts)


def measured_report(measured: Hardware) -> RenderableType:
    """Return what was measured, next to the published figures of the same kind of device."""
    published = HARDWARE["cpu"].of_cores(measured.cores) if measured.cores else _published(measured)
    links = measured.link_speeds()
    usual = LinkSpeeds() if published is None else published.link_speeds()
    rows: list[tuple[str, float | None, float | None, str]] = [
        ("memory", measured.bytes_per_second, None if published is None else published.bytes_per_second, "GB/s")
    ]
    for dtype, flops in measured.peak_flops.items():
        rows.append(
            (f"matrix products, {dtype}", flops, None if published is None else published.peak_flops[dtype], "TFLOP/s")
        )
    names = ("shared_memory",) if measured.cores else ("same_gpu", "nvlink", "pcie", "shared_memory")
    rows += [(f"link {name}", getattr(links, name), getattr(usual, name), "GB/s") for name in names]
    table = _table("measured here")
    for column in ("measured", f"{'no table' if published is None else published.name}", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for name, here, there, unit in rows:
        table.add_row(Text(f" {name}"), *(_figure(value, unit) for value in (here, there)), unit)
    return Group(Text(f" {measured.name}", style="bold"), table, "")


def _published(measured: Hardware) -> Hardware | None:
    name = measured.name.removesuffix(" (measured)")
    return None if measured.memory_bytes is None else hardware_of_device(name, measured.memory_bytes)


def _figure(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value / (1e9 if unit == 'GB/s' else 1e12):,.3g}"


def _flags(search: LayoutSearch, plan: Plan) -> Text:
    """Return the flags that give a run this plan."""
    rate = format_rate(search.predicted(plan).prediction.questions_per_second)
    return Text(f" a run has {rate} questions/s with {run_flags(plan)}", style="dim")


def _agents(best: PredictedPlan) -> Table:
    """Return a row for each agent: its replicas, the devices that it keeps busy, and its seconds for a question."""
    table = _table("agent")
    for column in ("replicas", f"{_device(best.plan)}s\nbusy", "prefill", "think", "decode"):
        table.add_column(column, justify="right", no_wrap=True)
    for agent, cost in best.costs.items():
        phases = (cost.prefill, cost.think, cost.decode)
        table.add_row(
            Text(f" {agent}"),
            str(best.plan.request.replicas[agent]),
            f"{best.prediction.devices_used[agent]:.2f}",
            *(format_fine_seconds(phase.seconds) if phase.seconds else "–" for phase in phases),
        )
    return table


def _notes(search: LayoutSearch, best: PredictedPlan) -> Text:
    figures, reached, prediction = search.device_hardware, search.reached, best.prediction
    tokens = search.text_tokens
    return Text(
        f" {format_rate(prediction.questions_per_second)} questions/s, {100 * prediction.use:.0f} % of "
        f"{prediction.num_devices} {_device(best.plan)}s busy; the bound: {prediction.bound_by}\n"
        f" the times are a replica's for one question, whose texts have {tokens} tokens, on {figures.name}: "
        f"{100 * reached.bandwidth:.0f} % of {figures.bytes_per_second / 1e9:,.0f} GB/s and "
        f"{100 * reached.flops:.0f} % of {figures.peak_flops[_dtype(search)] / 1e12:,.0f} TFLOP/s are assumed",
        style="dim",
    )


def _dtype(search: LayoutSearch) -> str:
    assert search.request.model is not None, "a search needs a model"
    return search.request.model.dtype


def _layouts(found: Sequence[PredictedPlan]) -> Table:
    table = _table("")
    table.add_column("questions/s", justify="right", no_wrap=True)
    table.add_column("busy", justify="right", no_wrap=True)
    table.add_column("on each device", overflow="fold")
    table.add_column("bound by", overflow="fold")
    for number, one in enumerate(found, 1):
        prediction = one.prediction
        rate, use = format_rate(prediction.questions_per_second), f"{100 * prediction.use:.0f} %"
        table.add_row(f" {number}", rate, use, Text(describe_contents(one.plan)), prediction.bound_by)
    return table


def _device(plan: Plan) -> str:
    return "GPU" if plan.share.num_gpus else "node"


def _table(first: str) -> Table:
    table = FittedTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(f" {first}", no_wrap=True)
    return table
