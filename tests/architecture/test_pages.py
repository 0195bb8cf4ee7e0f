"""The pages for operators and callers: whole, true, and as their generators write them."""

import re
from pathlib import Path

import pytest

from escalade.v1 import error_pb2, escalation_pb2
from escalade_server.api.mends import MENDS, mended
from escalade_server.api.status import STATUS, Refusal, status_of
from escalade_server.core.facts import AlertKind, EscalationReason
from escalade_server.telemetry.catalogue import METRICS
from escalade_server.telemetry.names import EVENTS
from tools import error_pages

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")
RULES = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8")
REASONS = [
    value for name, value in error_pb2.ErrorReason.items() if not name.endswith("UNSPECIFIED")
]


def headings(text: str) -> dict[str, str]:
    """Read a page as its headings of the third level, each with what stands under it."""
    parts = re.split(r"^### (.+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def section(name: str) -> str:
    return OPERATIONS.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("Escalation reasons", [reason.value for reason in EscalationReason]),
        (
            "Alerts told to people",
            # A layer without a key is explained as a reason of escalations.
            [kind.value for kind in AlertKind if kind is not AlertKind.UNCONFIGURED],
        ),
        ("Alert rules", re.findall(r"- alert: (\w+)", RULES)),
    ],
)
def test_every_signal_has_its_heading_and_no_other(place: str, wanted: list[str]) -> None:
    found = headings(section(place))
    assert sorted(found) == sorted(wanted)
    assert wanted
    for name, text in found.items():
        assert len(text.split()) >= 8, f"{name} is not explained"


def test_alert_rules_link_to_their_headings() -> None:
    links = re.findall(r"runbook_url: docs/operations.md#(\S+)", RULES)
    assert links == [name.lower() for name in re.findall(r"- alert: (\w+)", RULES)]


def test_every_log_event_and_metric_is_listed() -> None:
    events = (DOCS / "log-events.md").read_text(encoding="utf-8")
    metrics = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert [name for name in EVENTS if f"| `{name}` |" not in events] == []
    told = [metric.name.removesuffix("_total") for metric in METRICS]
    assert [name for name in told if f"| `{name}" not in metrics] == []


def test_the_pages_of_errors_are_fresh() -> None:
    there = {path.name: path.read_text(encoding="utf-8") for path in error_pages.PAGES.glob("*")}
    assert there == error_pages.pages(), "run `make gen`"


@pytest.mark.parametrize("reason", REASONS)
def test_every_error_ends_with_its_mend_however_long_it_is(
    reason: error_pb2.ErrorReason.ValueType,
) -> None:
    words = MENDS[reason].words
    for message in ("", "it went wrong", "it went wrong.", "x" * 5_000, "ü" * 5_000):
        told = status_of(Refusal(reason, message)).message
        assert told.endswith(words)
        assert len(told.encode()) <= 480
        assert ".;" not in told
    assert mended(reason, f"do this: {words}") == f"do this: {words}"
    assert len(words) <= 90
    assert STATUS[reason].name in (
        error_pages.PAGES / f"{error_pb2.ErrorReason.Name(reason).removeprefix('ERROR_REASON_')}.md"
    ).read_text(encoding="utf-8")


def test_mends_are_told_of_every_reason_and_of_nothing_else() -> None:
    assert set(MENDS) == set(STATUS) == set(REASONS)
    wire = [name for name, number in escalation_pb2.EscalationReason.items() if number]
    assert [name.removeprefix("ESCALATION_REASON_").lower() for name in wire] == [
        reason.value for reason in EscalationReason
    ]
