"""What one task learns from its failures, for itself and for everyone."""

from dataclasses import dataclass, field

from escalade_server.core.attempt import Live
from escalade_server.core.commands import Announce, ReportHealth, SetBench
from escalade_server.core.facts import Alert, AlertKind
from escalade_server.core.failure import TABLE, Failure, FailureClass, Scope, cooldown
from escalade_server.core.rules import OnOutage, Rules
from escalade_server.core.standing import Bench, Cause, Verdict, VerdictClass, own_bench
from escalade_server.core.task import Delivery, Request

_RATE = frozenset({FailureClass.RATE_SHORT, FailureClass.QUOTA_WINDOW})
_MONEY = frozenset({FailureClass.SPEND_CAP, FailureClass.BALANCE})


def class_of(failure: FailureClass) -> VerdictClass:
    """Class of verdict that a failure amounts to for other tasks (R5)."""
    if failure in _RATE:
        return VerdictClass.RATE
    return VerdictClass.MONEY if failure in _MONEY else VerdictClass.DOWN


@dataclass(slots=True)
class Experience:
    """What this one task has been through; the walk and the verdicts look at it."""

    tried: dict[int, Verdict] = field(default_factory=dict)
    """By ``Model.position``."""
    rejected_layers: set[int] = field(default_factory=set)
    left_layers: set[int] = field(default_factory=set)
    """Layers left for good: ``on_provider_outage: next_layer`` (R7)."""
    out_providers: set[tuple[int, str]] = field(default_factory=set)
    """Providers that failed in a layer: their other models there are skipped (R7)."""
    closed: dict[str, Verdict] = field(default_factory=dict)
    """Accounts and providers that this task's failures set aside: it does not call another model
    of theirs in the moment before everyone knows (P4, P6)."""
    context_floor: int = 0
    """A window of this many tokens was too small."""
    spent_nanos: int = 0
    """List value of paid layers so far, uncertain attempts at their reserve (R15)."""
    eventful: bool = False
    """Anything of this has happened; spares the look at it for the many tasks without."""
    retried: bool = False
    """The one retry of the same model that a task may have has been used (R8)."""

    def reject(self, layer_index: int) -> None:
        """An answer of this layer failed its gate: the whole layer is out (R21)."""
        self.eventful = True
        self.rejected_layers.add(layer_index)

    def forget(self) -> None:
        """After a wait every model may be tried again; what failed a gate stays out (R21, R22)."""
        for what in (self.tried, self.closed):
            what.clear()
        self.left_layers.clear()
        self.out_providers.clear()

    def learn(
        self, live: Live, failure: Failure, rules: Rules, input_estimate: int, now_ms: int
    ) -> list[SetBench | ReportHealth]:
        """Remember a failure for this task, and answer what everyone should know of it."""
        self.eventful = True
        model, row = live.model, TABLE[failure.cls]
        orders: list[SetBench | ReportHealth] = []
        if row.counts_for_breaker:
            orders.append(ReportHealth(model.provider, ok=False))
        silent = failure.cls is FailureClass.TIMEOUT and not live.first_ms
        later = failure.reset_at_ms is not None and failure.reset_at_ms > now_ms
        may_retry = rules.on_outage is OnOutage.RETRY_THEN_SKIP and row.retry_same
        if may_retry and not (silent or later or self.retried):
            self.retried = True
            return orders
        until = None
        set_aside = cooldown(failure, model.cooldown_on_limit_ms, now_ms)
        if set_aside is not None:
            scope, until = set_aside
            keys = {Scope.MODEL: model.key, Scope.ACCOUNT: model.account_key}
            key, cls = keys.get(scope, model.provider), failure.cls
            orders.append(SetBench(key, Bench(until, cls, failure.detail)))
            if scope is not Scope.MODEL:
                self.closed[key] = Verdict(
                    class_of(cls), Cause.COOLDOWN, failure.detail, until, cls
                )
        if failure.cls is FailureClass.OVERLOADED:
            orders.append(ReportHealth(model.key, ok=False))
        if failure.cls is FailureClass.CONTEXT:
            self.context_floor = max(self.context_floor, model.context_tokens or input_estimate)
        self.tried[model.position] = Verdict(
            VerdictClass.TRIED, Cause.FAILED_HERE, failure.detail, until, failure.cls
        )
        if row.counts_for_breaker and rules.on_outage is OnOutage.NEXT_LAYER:
            self.left_layers.add(model.layer_index)
        elif row.counts_for_breaker:
            self.out_providers.add((model.layer_index, model.provider))
        return orders


_ALERTS = {
    FailureClass.AUTH: AlertKind.AUTH,
    FailureClass.BALANCE: AlertKind.BALANCE,
    FailureClass.MODEL_GONE: AlertKind.MODEL_GONE,
}
_OWN_ALERTS = {**_ALERTS, FailureClass.FORBIDDEN: AlertKind.AUTH}
"""What only a person can mend; of a call of ours, what the provider forbids is that, too."""
_CODE_ALERTS = {"tls": AlertKind.PROVIDER}
"""The same by code, where the class alone mends by itself: a certificate does not (U2)."""


def shared(
    orders: list[SetBench | ReportHealth], live: Live, failure: Failure, request: Request
) -> list[SetBench | ReportHealth | Announce]:
    """Say what a failure changes for everyone: less, if it is a caller's own report (R33).

    A credential, balance or model that failed may be the caller's own: an alert, no shared state.
    An agent without ``trusted_reports`` sets a model aside for itself only. What only a person
    can mend is an alert after a call of ours, too (P4, P12); the engine tells it once an hour.
    """
    if request.delivery is not Delivery.ROUTE:
        own = _OWN_ALERTS.get(failure.cls) or _CODE_ALERTS.get(failure.code)
        detail = f"{live.model.key}: {failure.detail}"
        if own is None and failure.odd_reset:  # it stands for a month, or for nothing (T10)
            own, detail = AlertKind.PROVIDER, f"{detail}; the reset that it names cannot be right"
        if own is None:
            return list(orders)
        return [*orders, Announce(Alert(own, detail, live.model))]
    kind = _ALERTS.get(failure.cls)
    if kind is not None:
        detail = f"a caller reports of {live.model.key}: {failure.detail}"
        return [Announce(Alert(kind, detail, live.model))]
    if not failure.sent:
        return []
    if request.trusted_reports:
        return list(orders)
    benches = [order for order in orders if isinstance(order, SetBench)]
    return [SetBench(own_bench(request.agent, order.key), order.bench) for order in benches]
