"""What is shipped for watching names only what there is, and what there is is written down."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from escalade_server.core.facts import AlertKind, EscalationReason
from escalade_server.telemetry import catalogue
from escalade_server.telemetry.instruments import Kind, Metric
from tools import dashboard

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"][0]["rules"]
NAME = re.compile(r"(?<![\w:$\"])((?:escalade|gen_ai|rpc)_\w+)\s*(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
GROUPED = re.compile(r"\b(?:by|ignoring|on)\s*\(([^)]*)\)")
FROM_OUTSIDE = {"instance", "job", "le", "worker"}


def sample_names(metric: Metric) -> set[str]:
    if metric.kind is Kind.HISTOGRAM:
        return {f"{metric.name}_{part}" for part in ("bucket", "count", "sum")}
    return {metric.sample}


KNOWN = {name: metric for metric in catalogue.METRICS for name in sample_names(metric)}


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for _, row in dashboard.rows():
        for panel in row:
            for expression, _ in dashboard.queries(panel):
                yield str(panel["title"]), expression


@pytest.mark.parametrize(("where", "expression"), [*expressions()])
def test_every_name_in_a_query_exists(where: str, expression: str) -> None:
    used = NAME.findall(re.sub(r"\b(?:by|ignoring|on)\s*\([^)]*\)", "", expression))
    assert used or "escalade:" in expression, where
    labels = set(FROM_OUTSIDE)
    for name, matchers in used:
        assert name in KNOWN, f"{where}: there is no {name}"
        known = {*KNOWN[name].labels, *FROM_OUTSIDE}
        assert set(LABEL.findall(matchers)) <= known, f"{where}: {name} has {known}"
        labels |= known
    recorded = re.findall(r"escalade:\w+:\w+", expression)
    assert set(recorded) <= {rule["record"] for rule in RULES if "record" in rule}, where
    if not recorded:
        grouped = {
            each.strip() for group in GROUPED.findall(expression) for each in group.split(",")
        }
        assert grouped <= labels, f"{where}: {grouped - labels}"


def test_every_metric_is_looked_at_and_written_down() -> None:
    looked_at = " ".join(expression for _, expression in expressions())
    for metric in catalogue.METRICS:
        assert any(f"{name}" in looked_at for name in sample_names(metric)), metric.name
        assert f"`{metric.name}" in (ROOT / "docs/metrics.md").read_text()


def test_the_dashboard_is_fresh_and_its_panels_have_room() -> None:
    assert dashboard.PLACE.read_text() == dashboard.text(), "make docs"
    titles = [panel["title"] for _, row in dashboard.rows() for panel in row]
    assert len(set(titles)) == len(titles)


OPERATIONS = (ROOT / "docs/operations.md").read_text()


def anchors_of(page: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in heads}


def test_operations_tell_of_every_reason_and_alert_and_of_metrics_that_are() -> None:
    told = {reason.value for reason in EscalationReason} | {kind.value for kind in AlertKind}
    assert told <= anchors_of(OPERATIONS)
    known = {f"{m.name}{'_total' * (m.kind is Kind.COUNTER)}" for m in catalogue.METRICS}
    assert set(re.findall(r"`((?:escalade|gen_ai|rpc)_\w+)`", OPERATIONS)) <= known
    links = re.findall(r"\(operations\.md#([\w-]+)\)", OPERATIONS)
    assert set(links) <= anchors_of(OPERATIONS)


def test_every_alert_says_what_to_do() -> None:
    anchors = anchors_of(OPERATIONS)
    for rule in RULES:
        if "alert" in rule:
            said = rule["annotations"]
            assert set(said) == {"summary", "description", "runbook_url"}, rule["alert"]
            file, _, anchor = said["runbook_url"].partition("#")
            assert file == "docs/operations.md"
            assert anchor in anchors, f"{rule['alert']} points nowhere: {anchor}"


def test_the_collector_is_wired() -> None:
    config = yaml.safe_load((DEPLOY / "collector/config.yaml").read_text())
    used: dict[str, set[str]] = {}
    for pipeline in config["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            used.setdefault(kind, set()).update(names)
    for kind, names in used.items():
        assert names == set(config[kind]), kind
    text = (DEPLOY / "collector/config.yaml").read_text()
    addresses = re.findall(r"\$\{env:\w+:-([^}]+)\}", text)
    assert all(address == "true" or address.startswith("127.0.0.1:") for address in addresses)


def test_what_is_red_is_what_is_wrong() -> None:
    """Without steps of our own Grafana paints everything red from 80 on."""
    made = {panel["title"]: panel for panel in json.loads(dashboard.PLACE.read_text())["panels"]}
    steps = {
        title: [
            (step["color"], step["value"])
            for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        ]
        for title, panel in made.items()
        if panel["type"] in dashboard.COLOURED
    }
    assert steps["Models that can be used"] == [("red", None), ("green", 1)]
    assert steps["Caps and quotas, spent"] == [("green", None), ("orange", 0.8), ("red", 1)]
    assert steps["Saved since the start"] == [("green", None)]
