"""Reports as JSON and CSV: complete, in order, harmless in a spreadsheet, and as they were."""

import csv
import io
import json
from dataclasses import replace

import pytest

from escalade_server.report.text import TOKENS, as_csv, as_json, cost_nanos, saving
from tests.report.sample import GOLDEN, report, written


@pytest.mark.parametrize("name", ["report.html", "report.csv", "report.json"])
def test_the_sample_is_written_as_before(name: str) -> None:
    assert written()[name] == (GOLDEN / name).read_text(encoding="utf-8")


def test_json_has_every_section_and_exact_figures() -> None:
    found = report()
    data = json.loads(json.dumps(as_json(found)))
    assert data["total"]["list_nano_usd"] == found.total.list_nanos
    assert data["cost_nano_usd"] == found.total.charged_nanos + found.fees_nanos
    for name in ("layer", "model", "agent", "task_type", "day"):
        assert sum(line["charged_nano_usd"] for line in data[f"by_{name}"]) == (
            found.total.charged_nanos
        )
    assert data["baselines"][0]["saved_nano_usd"] == (found.baselines[0][1] - cost_nanos(found))


def test_csv_adds_up_and_no_name_is_a_formula() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(report()))))
    by_agent = [line for line in lines if line["by"] == "agent"]
    assert sum(int(line["tasks"]) for line in by_agent) == int(lines[0]["tasks"])
    assert not any(line["name"].startswith(("=", "+", "-", "@")) for line in lines)


def test_without_tokens_their_columns_are_gone() -> None:
    """R7."""
    quiet = replace(report(), tracks_tokens=False)
    [head, *_] = as_csv(quiet).splitlines()
    assert not set(TOKENS) & set(head.split(","))
    total = as_json(quiet)["total"]
    assert isinstance(total, dict)
    assert not set(TOKENS) & total.keys()


def test_savings_are_told_both_ways() -> None:
    dear = replace(report(), baselines=(("p/dear", 4 * cost_nanos(report())), ("p/cheap", 1)))
    told = saving(dear)
    assert "(75 %) less than p/dear alone" in told
    assert "more than p/cheap alone" in told
