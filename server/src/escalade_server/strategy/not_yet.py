"""Keys that are accepted and checked, but whose behaviour is not built in this version.

One row per key: ``*`` stands for any name or index. When its behaviour is built, its row goes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from escalade_server.strategy.errors import NotYetInEffect, Path, dotted
from escalade_server.strategy.model import SECTION_NAMES
from escalade_server.strategy.validate import TOP
from escalade_server.strategy.yaml_nodes import Document

WAITING = "nothing waits yet: such a task fails at once and names the earliest instant"
ALERTS = "no alert is sent yet; GetStatus shows what is used"


@dataclass(frozen=True, slots=True)
class Row:
    """A key, what happens instead, and the values that this is true of (none: all)."""

    path: str
    sentence: str
    values: tuple[str, ...] = ()


ROWS = (
    Row("failure_handling.on_all_layers_exhausted", WAITING, ("notify_user_and_wait", "wait")),
    Row("failure_handling.max_wait", WAITING),
    Row(
        "escalation_logic.on_target_exhausted",
        "nothing waits yet: such a task fails at once",
        ("wait",),
    ),
    Row("escalation_logic.budget_alert", ALERTS, ("notify_user", "log")),
    Row("monitoring.alert_at_budget_80_percent", ALERTS),
    Row("monitoring.alert_at_budget_percent", ALERTS),
    Row("monitoring.daily_usage_report", "no report is made yet", ("true",)),
    Row("layers.*.reserved_for_complexity", "no share is kept back yet"),
    Row("providers.*.concurrency", "calls of a provider are not limited yet"),
    Row("providers.*.accounts.*.concurrency", "calls of an account are not limited yet"),
    Row("providers.*.timeouts", "the timeouts of the strategy hold for every provider"),
    Row("notifications", "nothing is sent yet"),
    Row("quality", "gates of the strategy are not asked yet"),
    Row("sessions", "sessions are not kept yet"),
)


def not_yet_in_effect(document: Document) -> Iterator[NotYetInEffect]:
    """List the keys of a file that have no effect yet, in the order of the file."""
    found = [
        (spot.line, path, row)
        for path, spot in document.keys.items()
        for row in ROWS
        if _matches(row, path) and (not row.values or document.spot(path).text in row.values)
    ]
    for line, path, row in sorted(found, key=lambda entry: entry[0]):
        yield NotYetInEffect(dotted(path), line, row.sentence)
    default = (TOP, "failure_handling", "on_all_layers_exhausted")
    if default not in document.keys:
        yield NotYetInEffect(dotted(default), 0, WAITING)


def _matches(row: Row, path: Path) -> bool:
    inside = path[1:] if path[:1] == (TOP,) else path
    if path[:1] != (TOP,) and path[:1] and path[0] not in SECTION_NAMES:
        return False
    wanted = row.path.split(".")
    return len(wanted) == len(inside) and all(
        want in {"*", step} for want, step in zip(wanted, inside, strict=True)
    )
