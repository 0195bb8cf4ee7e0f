"""Lays the panels of deploy/grafana/panels.yaml out as Grafana's dashboard.json beside it."""

import json
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "grafana"
PLACE = FOLDER / "dashboard.json"
ACROSS, WIDTH, HEIGHT = 3, 8, 7
SOURCE = {"type": "prometheus", "uid": "${source}"}
COLOURED = ("stat", "bargauge")
Panel = dict[str, object]


def rows() -> list[tuple[str, list[Panel]]]:
    """Read the panels, row by row."""
    read = yaml.safe_load((FOLDER / "panels.yaml").read_text())
    return [(row["row"], row["panels"]) for row in read]


def queries(panel: Panel) -> list[tuple[str, str]]:
    """List the expressions of a panel, each with its legend."""
    stated = panel["queries"]
    assert isinstance(stated, list), panel
    return [(query["expr"], query["legend"]) for query in stated]


def text() -> str:
    """Write the dashboard as JSON."""
    panels: list[Panel] = []
    top = 0
    for name, row in rows():
        panels.append(
            {
                "id": len(panels) + 1, "type": "row", "title": name, "collapsed": False,
                "panels": [], "gridPos": {"x": 0, "y": top, "w": ACROSS * WIDTH, "h": 1},
            }
        )  # fmt: skip
        top += 1
        for place, panel in enumerate(row):
            down, right = divmod(place, ACROSS)
            at = {"x": right * WIDTH, "y": top + down * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(len(panels) + 1, panel, at))
        top += -(-len(row) // ACROSS) * HEIGHT
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    made = {
        "uid": "escalade", "title": "Escalade", "tags": ["escalade"], "timezone": "browser",
        "schemaVersion": 39, "refresh": "30s", "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]}, "panels": panels,
    }  # fmt: skip
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _panel(number: int, panel: Panel, at: dict[str, int]) -> Panel:
    kind = panel.get("kind", "timeseries")
    over_time = kind == "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression,
            "legendFormat": legend, "instant": not over_time, "range": over_time,
            "exemplar": over_time, "format": "table" if kind == "table" else "time_series",
        }
        for place, (expression, legend) in enumerate(queries(panel))
    ]  # fmt: skip
    defaults: dict[str, object] = {"unit": panel["unit"], "min": 0}
    if "most" in panel:
        defaults["max"] = panel["most"]
    if kind in COLOURED:
        defaults["color"] = {"mode": "thresholds"}
        defaults["thresholds"] = {"mode": "absolute", "steps": _steps(panel)}
    return {
        "id": number, "type": kind, "title": panel["title"],
        "description": panel.get("means", ""), "datasource": SOURCE, "gridPos": at,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }  # fmt: skip


def _steps(panel: Panel) -> list[dict[str, object]]:
    """Say from which value on it has which colour; Grafana's own default is red from 80 on."""
    colours = panel.get("colours", {0: "green"})
    assert isinstance(colours, dict), panel
    values = [None, *list(colours)[1:]]
    return [
        {"color": colour, "value": value}
        for colour, value in zip(colours.values(), values, strict=True)
    ]


if __name__ == "__main__":
    PLACE.write_text(text())
