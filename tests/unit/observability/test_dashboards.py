"""Tests that the dashboard and the alert rules use existing metrics and labels."""

import json
import re
from collections.abc import Iterator

import pytest

from famulus.observability.metric_definitions import CATALOGUE
from tests.support.places import ROOT

DEPLOY = ROOT / "deploy"
NAME = re.compile(r"\b(?:famulus|messaging|kafka)_\w+")
SUFFIXES = {
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("_sum", "_count"),
    "counter": ("",),
    "gauge": ("",),
}
SERIES = {metric.name + suffix: metric for metric in CATALOGUE for suffix in SUFFIXES[metric.kind]}
LABELS = {label for metric in CATALOGUE for label in metric.labels}
ADDED = {"instance", "le"}  # by Prometheus, and by histograms


def of_rules() -> Iterator[str]:
    """Yield the expressions of the alert rules."""
    text = (DEPLOY / "prometheus/rules.yml").read_text("utf-8")
    for match in re.finditer(r"^ +expr: (?:>-\n((?: {10}.+\n)+)|(.+\n))", text, re.MULTILINE):
        yield match[1] or match[2]


def of_dashboard() -> Iterator[str]:
    """Yield the expressions of the dashboard's panels and of its variable."""
    dashboard = json.loads((DEPLOY / "grafana/famulus.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (v["definition"] for v in dashboard["templating"]["list"] if v["type"] == "query")


@pytest.mark.parametrize("query", [*of_rules(), *of_dashboard()])
def test_a_query_asks_for_what_there_is(query: str) -> None:
    """Each name is a series of the catalogue, and each label belongs to one of its metrics."""
    names = [name for name in NAME.findall(query) if name not in LABELS]
    assert names
    assert set(names) <= SERIES.keys(), set(names) - SERIES.keys()
    there = {label for name in names for label in SERIES[name].labels} | ADDED
    asked = set(re.findall(r"(\w+)=~?\"", query))
    asked |= {
        label.strip() for of in re.findall(r"by \(([^)]*)\)", query) for label in of.split(",")
    }
    assert asked <= there, asked - there


def test_every_alert_is_looked_at() -> None:
    """Each rule has a summary, and occurs in the tests of the rules."""
    text = (DEPLOY / "prometheus/rules.yml").read_text("utf-8")
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(alerts) == len(list(of_rules())) == text.count("summary: ")
    tested = (DEPLOY / "prometheus/alerts.test.yml").read_text("utf-8")
    assert [alert for alert in alerts if alert not in tested] == []


def test_panels_do_not_overlap() -> None:
    """Each panel also has its own id."""
    panels = json.loads((DEPLOY / "grafana/famulus.json").read_text("utf-8"))["panels"]
    taken = [
        (x, y)
        for panel in panels
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert len({panel["id"] for panel in panels}) == len(panels)
