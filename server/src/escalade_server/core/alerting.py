"""Which alerts repeat others (P4), and at which shares of caps and quotas people are told.

An alert that a person must mend is told once an hour.
"""

from collections.abc import Sequence
from typing import NamedTuple

from escalade_server.core.catalog import (
    Billing,
    Catalog,
    Counter,
    CounterScope,
    Layer,
    Unit,
)
from escalade_server.core.facts import Alert, AlertKind
from escalade_server.core.failure import HOUR_MS
from escalade_server.core.rules import OnBudgetAlert
from escalade_server.core.window import slides

AGAIN_MS = HOUR_MS
_OF_LAYER = frozenset({CounterScope.LAYER, CounterScope.MODEL})
_OF_ACCOUNT = frozenset({AlertKind.AUTH, AlertKind.BALANCE})


def subject(alert: Alert) -> str | None:
    """Name what an alert is about, as far as others may repeat it; None: each is news."""
    if alert.model is None:
        return None
    if alert.kind is AlertKind.PROVIDER:  # of several kinds, told apart by their words
        return f"{alert.kind.value} {alert.detail}"
    if alert.kind in _OF_ACCOUNT:
        return f"{alert.kind.value} {alert.model.account_key}"
    return f"{alert.kind.value} {alert.model.key}" if alert.kind is AlertKind.MODEL_GONE else None


class Mark(NamedTuple):
    """A share of a counter at which people are told: in percent, and in units of the counter."""

    percent: int
    at: int
    kind: AlertKind
    layer: str = ""
    """The layer whose cap or model it concerns; empty where several share the counter."""


def marks_of(catalog: Catalog) -> dict[str, tuple[Mark, ...]]:
    """List the marks of every counter by its key, lowest first.

    Windows of a day and longer have them. Shorter ones slide and are full many times an hour by
    design: they pace, and what they stop is told as a fallback or an escalation. A metered layer
    with a cap has one more, where its planned cost of the month is reached (R15).
    """
    rules = catalog.rules
    if rules.on_budget_alert is OnBudgetAlert.OFF:
        return {}
    percents = [percent for percent in sorted(set(rules.alert_percents)) if percent > 0]
    found = {
        counter.key: _marks(counter, percents, "")
        for agent in catalog.agents.values()
        for counter in agent.counters
    }
    for layer in catalog.layers:
        for counter in [counter for model in layer.models for counter in model.counters]:
            own = layer.name if counter.scope in _OF_LAYER else ""
            marks = _marks(counter, percents, own)
            if _is_planned(layer, counter):
                percent = layer.fee_nanos * 100 // counter.limit
                plan = Mark(percent, layer.fee_nanos, AlertKind.PLAN, own)
                marks = tuple(sorted((*marks, plan), key=_at))
            found[counter.key] = marks
    return {key: marks for key, marks in found.items() if marks}


def _marks(counter: Counter, percents: Sequence[int], layer: str) -> tuple[Mark, ...]:
    if slides(counter.period) or not counter.limit:
        return ()
    kind = AlertKind.BUDGET if counter.unit is Unit.NANOS else AlertKind.QUOTA
    return tuple(
        Mark(percent, -(-counter.limit * percent // 100), kind, layer) for percent in percents
    )


def _at(mark: Mark) -> int:
    return mark.at


def _is_planned(layer: Layer, counter: Counter) -> bool:
    return (
        counter.scope is CounterScope.LAYER
        and 0 < layer.fee_nanos < counter.limit
        and any(model.billing is Billing.METERED for model in layer.models)
    )
