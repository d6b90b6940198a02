"""Dashboard and alerts: every metric that they name exists, every alert leads to a section of the runbook."""

import json
import re
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml

from keymill import telemetry

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS: dict[str, Any] = {
    rule["alert"]: rule
    for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "keymill.json").read_text())
EXPRESSIONS = [
    *((name, rule["expr"]) for name, rule in ALERTS.items()),
    *((panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]),
]
PROMETHEUS_OWN = {"up"}
WORDS = {
    "sum", "max", "min", "by", "rate", "increase", "changes", "absent", "histogram_quantile", "and", "or", "unless",
}  # fmt: skip
"""PromQL's words that are used here."""
TOKENS = re.compile(
    r'\s+|"[^"]*"|[a-zA-Z_:][a-zA-Z0-9_:]*|\d+(?:\.\d+)?|\[\d+[smhd]\]|=~|!~|==|!=|>=|<=|[-+*/<>=(){},]'
)


def registered() -> dict[str, set[str]]:
    """Every series that the programs expose, with its labels: what stands in the registry that /metrics shows."""
    metrics = [
        each for each in vars(telemetry).values() if isinstance(each, prometheus_client.metrics.MetricWrapperBase)
    ]
    known: dict[str, set[str]] = {"process_start_time_seconds": set()}
    for metric in metrics:
        labels = set(metric._labelnames)
        name = metric.describe()[0].name
        match metric._type:
            case "counter":
                known[f"{name}_total"] = labels
            case "histogram":
                known |= {f"{name}{end}": labels | ({"le"} if end == "_bucket" else set()) for end in
                          ("_bucket", "_sum", "_count")}  # fmt: skip
            case _:
                known[name] = labels
    return known


def parse(expression: str) -> tuple[set[str], set[str]]:
    """Metric names and label names of an expression; fails where it is no PromQL of the kind that is used here."""
    tokens, at = [], 0
    while at < len(expression):
        found = TOKENS.match(expression, at)
        assert found, f"not PromQL at {expression[at:]!r}"
        if not found.group().isspace():
            tokens.append(found.group())
        at = found.end()
    metrics, labels, depth = set(), set(), []
    for before, token, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if token in "({":
            depth.append((token, before))
        elif token in ")}":
            assert depth and depth.pop()[0] == {")": "(", "}": "{"}[token], expression
        elif re.match(r"[a-zA-Z_]", token):
            inside = depth[-1] if depth else ("", "")
            if inside[0] == "{" or inside[1] == "by":
                labels.add(token)
            elif token not in WORDS:
                assert after != "(", f"{token} is no function that is known here"
                metrics.add(token)
    assert not depth, f"unbalanced: {expression}"
    assert metrics, expression
    return metrics, labels


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[f"{n}-{w}" for n, (w, _) in enumerate(EXPRESSIONS)])
def test_every_metric_and_label_exists(where: str, expression: str) -> None:
    """A misspelt metric is an alert that never fires."""
    metrics, labels = parse(expression)
    known = registered()
    assert set() == metrics - known.keys() - PROMETHEUS_OWN, where
    given = set().union(*(known.get(name, set()) for name in metrics)) | {"job", "instance"}
    assert set() == labels - given, where


def test_the_check_sees_mistakes() -> None:
    """Of the kinds it is there for."""
    for broken in ("sum(rate(x[5m])", "rate(x[5 m])", "summ(x)", "x{a=1}}", "5 > 3"):
        with pytest.raises(AssertionError):
            parse(broken)
    assert ({"a_total", "b"}, {"le", "c"}) == parse('sum by (le) (rate(a_total{c="d"}[5m])) / b > 0.5')


def test_every_metric_is_watched() -> None:
    """What a program counts is on the dashboard or in an alert, but for what only explains another."""
    named = set().union(*(parse(expression)[0] for _, expression in EXPRESSIONS))
    beside = {
        "keymill_published_total", "keymill_view_ready", "keymill_view_stale", "keymill_upstream_seconds",
    }  # fmt: skip
    bare = {re.sub(r"_(bucket|sum|count)$", "", name) for name in registered() if name.startswith("keymill_")}
    assert beside == bare - {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}


def anchors() -> set[str]:
    """The anchors of the runbook's sections, as GitHub makes them."""
    headings = re.findall(r"^##+ (.+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_leads_to_its_symptom(name: str) -> None:
    """A person who is woken finds what to do."""
    rule = ALERTS[name]
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert "docs/runbook.md" == page
    assert anchor in anchors()
    assert rule["annotations"]["summary"]
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_dashboard_can_be_loaded() -> None:
    """Panels with ids of their own that lie beside each other, from the data source that is provisioned."""
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    panels = DASHBOARD["panels"]
    assert DASHBOARD["uid"] and DASHBOARD["title"] and DASHBOARD["schemaVersion"] >= 36
    assert len(panels) == len({panel["id"] for panel in panels})
    assert {source["uid"] for source in sources} == {panel["datasource"]["uid"] for panel in panels}
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert len(panel["targets"]) == len({target["refId"] for target in panel["targets"]})


def test_it_is_mounted_where_grafana_and_prometheus_look() -> None:
    """The paths of the provisioning are those of docker-compose.yml."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/keymill.yml").read_text())["providers"]
    assert any(f":{provider['options']['path']}:ro" in volume for volume in services["grafana"]["volumes"])
    (rules,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["rule_files"]
    assert any(f":{rules}:ro" in volume for volume in services["prometheus"]["volumes"])
