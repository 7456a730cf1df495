"""Predicted plans as text: questions per second, the use of the devices, and what bounds each."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from latentmas_ray.cli.render.fitted import FittedTable
from latentmas_ray.placement import Plan
from latentmas_ray.placement.prediction.layout_search import LayoutSearch, PredictedPlan, run_of
from latentmas_ray.placement.prediction.layouts import contents_of
from latentmas_ray.placement.prediction.throughput import predict
from latentmas_ray.units import format_fine_seconds


def layout_report(search: LayoutSearch, found: Sequence[PredictedPlan], *, most: int) -> RenderableType:
    """Return what is predicted for the first of `found`, and a comparison of the first `most`."""
    parts: list[RenderableType] = [
        Text(" predicted for this plan", style="bold"),
        _agents(search, found[0]),
        _notes(search, found[0]),
        "",
    ]
    if len(found) > 1:
        title = f" layouts: the best {most} of {len(found)}" if most < len(found) else f" all {len(found)} layouts"
        parts += [Text(title, style="bold"), _layouts(found[:most])]
    if found[0].layout is not None:
        run = run_of(found)
        none = Text(" a run can have none of these layouts so far", style="dim")
        parts += [none if run is None else _flags(search, run[1]), ""]
    return Group(*parts)


def _flags(search: LayoutSearch, plan: Plan) -> Text:
    """Return the flags that give a run this plan, whose slots are those that a run chooses."""
    costs = search.costs(plan.request, is_colocated=plan.is_colocated)
    rate = _rate(predict(plan, costs, search.speeds).questions_per_second)
    return Text(f" a run has {rate} questions/s with {run_flags(plan)}", style="dim")


def run_flags(plan: Plan) -> str:
    """Return the flags of a run for the placement, tp and replicas of this plan."""
    request = plan.request
    counts = {agent: count for agent, count in request.replicas.items() if count > 1}
    is_same = len(set(request.replicas.values())) == 1
    replicas = (
        str(request.num_pipelines) if is_same else ",".join(f"{agent}={count}" for agent, count in counts.items())
    )
    tp = f" --tp {request.tp}" if request.tp > 1 else ""
    return f"--placement {plan.strategy} --replicas {replicas}{tp}"


def _agents(search: LayoutSearch, best: PredictedPlan) -> Table:
    """Return a row for each agent: its replicas, the devices that it keeps busy, and its seconds for a question."""
    table = _table("agent")
    for column in ("replicas", f"{_device(best.plan)}s\nbusy", "prefill", "think", "decode"):
        table.add_column(column, justify="right", no_wrap=True)
    costs = search.costs(best.plan.request, is_colocated=best.plan.is_colocated)
    for agent, cost in costs.items():
        phases = (cost.prefill, cost.think, cost.decode)
        table.add_row(
            Text(f" {agent}"),
            str(best.plan.request.replicas[agent]),
            f"{best.prediction.devices_used[agent]:.2f}",
            *(format_fine_seconds(phase.seconds) if phase.seconds else "–" for phase in phases),
        )
    return table


def _notes(search: LayoutSearch, best: PredictedPlan) -> Text:
    figures, reached, prediction = search.device_hardware, search.efficiency, best.prediction
    tokens = search.text_tokens
    return Text(
        f" {_rate(prediction.questions_per_second)} questions/s, {100 * prediction.use:.0f} % of "
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
        rate, use = _rate(prediction.questions_per_second), f"{100 * prediction.use:.0f} %"
        table.add_row(f" {number}", rate, use, _contents(one.plan), prediction.bound_by)
    return table


def _contents(plan: Plan) -> Text:
    """Say how many devices have which agents."""
    ranks = f" (tp {plan.request.tp})" if plan.request.tp > 1 else ""
    found = contents_of(plan).items()
    texts = [f"{count}× {'all in one actor' if plan.is_colocated else '+'.join(names)}" for names, count in found]
    return Text(", ".join(texts) + ranks)


def _rate(questions_per_second: float) -> str:
    return f"{questions_per_second:,.0f}" if questions_per_second >= 100 else f"{questions_per_second:.3g}"


def _device(plan: Plan) -> str:
    return "GPU" if plan.share.num_gpus else "node"


def _table(first: str) -> Table:
    table = FittedTable(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(f" {first}", no_wrap=True)
    return table
