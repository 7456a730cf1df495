"""The Grafana dashboard shows every metric that is recorded, under the name that Ray gives it, and no other."""

import json
import re
from typing import Any

import pytest

from latentmas_ray.scheduler.metrics import METRICS
from tests.architecture.source import ROOT

DASHBOARD = json.loads((ROOT / "cluster/grafana/latentmas.json").read_text())
EXPORTED = {f"ray_{metric.name}": metric for metric in METRICS}  # Ray writes `ray_` before a name
# Ray's own label of all metrics, beside those that Prometheus variables need.
OF_RAY = {"SessionName"}


def targets() -> list[dict[str, Any]]:
    return [target for panel in DASHBOARD["panels"] for target in panel["targets"]]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))


def test_metrics_of_dashboard_and_code_are_the_same() -> None:
    assert set().union(*(names_in(target["expr"]) for target in targets())) == set(EXPORTED)


def test_metrics_are_documented_with_their_tags() -> None:
    rows = re.findall(r"^\| `(latentmas_\w+)` \|([^|]*)\|", (ROOT / "docs/cluster.md").read_text(), re.MULTILINE)
    assert {name: set(tags.strip().split(", ")) - {""} for name, tags in rows} == {
        metric.name: set(metric.tags) for metric in METRICS
    }


@pytest.mark.parametrize("target", targets(), ids=lambda target: target["expr"])
def test_a_panel_uses_a_metric_as_what_it_is(target: dict[str, Any]) -> None:
    """Counters by their rate, gauges as they are; no label that the metric lacks; balanced brackets."""
    expression = target["expr"]
    (name,) = names_in(expression)
    metric = EXPORTED[name]
    assert ("rate(" in expression) == (metric.kind == "counter")
    labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    grouped = re.search(r"by \(([^)]*)\)", expression)
    assert labels == set(grouped[1].split(", ") if grouped else ())
    assert labels <= set(metric.tags)
    assert set(re.findall(r"(\w+)=~", expression)) <= OF_RAY | set(metric.tags)
    for left, right in ("()", "{}", "[]"):
        assert expression.count(left) == expression.count(right)


def test_grafana_can_load_it() -> None:
    """Every panel and target has its own name and place, and asks the data source that the user picks."""
    panels = DASHBOARD["panels"]
    assert {"title", "uid", "schemaVersion", "templating", "panels"} <= DASHBOARD.keys()
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps([DASHBOARD["panels"], DASHBOARD["templating"]])))
    assert used == variables
    assert all(target["datasource"]["uid"] == "${datasource}" for target in targets())
