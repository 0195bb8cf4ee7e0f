"""`escalade watch`: readable lines, JSON for programs, and where to go on."""

import pytest

from escalade.v1 import escalation_pb2 as e
from escalade.v1.operations_service_pb2 import FeedEntry
from escalade_server.cli.feed import line as _line
from escalade_server.cli.feed import short
from escalade_server.cli.watch import KINDS

MINI = e.ModelRef(layer="free", provider="openai", account="a", model="mini")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            FeedEntry(escalated=e.Escalated(
                from_layer="free", to_layer="plan", reason=e.ESCALATION_REASON_RATE_LIMIT,
                detail="50 of 50",
            )),
            ("free → plan (rate_limit); 50 of 50",),
        ),
        (
            FeedEntry(fallback=e.Fallback(from_target=MINI, to_target=e.ModelRef(model="x"))),
            ("mini → x",),
        ),
        (
            FeedEntry(alert=e.Alert(kind=e.ALERT_KIND_QUOTA, detail="40 of 50")),
            ("quota; 40 of 50",),
        ),
    ],
)  # fmt: skip
def test_a_line_says_what_when_whose_and_where_to_go_on(
    entry: FeedEntry, words: tuple[str, ...]
) -> None:
    entry.cursor, entry.agent, entry.request_id = "ab.7", "bo", "req"
    entry.time.FromSeconds(1_790_000_000)
    line = _line(entry).plain

    assert line.startswith("09-21 14:13:20 ")
    assert line.endswith("[bo req]  ab.7")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    "kind",
    [field.name for field in FeedEntry.DESCRIPTOR.oneofs_by_name["kind"].fields],
)
def test_every_kind_has_words(kind: str) -> None:
    entry = FeedEntry()
    getattr(entry, kind).SetInParent()
    for write in (_line, short):
        assert "newer server" not in write(entry).plain
        assert "newer server" in write(FeedEntry()).plain


def test_kinds_are_typed_as_words() -> None:
    assert KINDS == (
        "escalated", "fallback", "alert", "model-state", "wait", "report", "strategy", "task",
    )  # fmt: skip
