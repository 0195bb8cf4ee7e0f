"""Counters of a model: its own windows and cap, its account's, its layer's, the strategy's (R18).

Keys are stable over reloads: rate limits by account (or the quota group it shares) and model;
money caps over all accounts; layer caps by layer, under its first name if it was renamed.
"""

from collections.abc import Iterator, Mapping

from escalade_server.core.catalog import Billing, Counter, CounterScope, Period, Unit
from escalade_server.strategy import model as config
from escalade_server.strategy.accounts import Cap, CapKey, Seat, cap

CALENDAR = {Period.DAY, Period.WEEK, Period.MONTH}
"""Windows that end at an instant of the calendar; the others slide (R18)."""


def model_counters(
    strategy: config.Strategy,
    layer: config.Layer,
    seat: Seat,
    *,
    zone: str,
    billing: Billing,
    caps: Mapping[CapKey, Cap],
) -> tuple[Counter, ...]:
    """List every counter that a call of the model on this account touches."""
    entry, own = seat.entry, f"{seat.owner}/{seat.entry.model}"
    account = (seat.owner, seat.owner_label)
    return (
        *_windows(entry.rate_limit, own, seat.model_label, CounterScope.MODEL, zone),
        *_windows(seat.rate_limit, *account, CounterScope.ACCOUNT, zone),
        *_caps(strategy, layer, entry, billing, caps),
    )


def ordinary_counters(
    strategy: config.Strategy, layer: config.Layer, entry: config.Model
) -> tuple[Counter, ...]:
    """Make the shares of a layer's caps that tasks may use which did not jump there (R11).

    They count beside the caps, so that neither kind of task uses up what is the other's.
    """
    kept = layer.reserved_for_complexity
    if not kept:
        return ()
    found = []
    if layer.cap_nanos is not None:
        day = layer.cap_resets or strategy.cap_resets or 1
        owner, of = f"layer/{layer.was or layer.name}", CounterScope.LAYER
        found.append((owner, layer.cap_nanos, of, f"{layer.name} monthly cap", day))
    if entry.cap_nanos is not None:
        own = cap(strategy, layer, entry)
        owner, of = f"{entry.provider}/{entry.model}", CounterScope.MODEL
        found.append((owner, own.nanos, of, f"{entry.model} monthly cap", own.day))
    return tuple(
        _cap(f"{owner}/ordinary", nanos * (100 - kept) // 100, of, f"{label}, ordinary tasks", day)
        for owner, nanos, of, label, day in found
    )


def agent_counters(strategy: config.Strategy, name: str, own: config.Agent) -> tuple[Counter, ...]:
    """List the counters of an agent, over all its tasks; its windows are UTC's."""
    owner, day = f"agent/{name}", own.cap_resets or strategy.cap_resets or 1
    windows = _windows(own.rate_limit, owner, name, CounterScope.AGENT, "UTC")
    if own.monthly_cap is None:
        return tuple(windows)
    label = f"{name} monthly cap"
    return (*windows, _cap(owner, own.monthly_cap, CounterScope.AGENT, label, day))


def _windows(
    limits: config.RateLimit | None, owner: str, name: str, scope: CounterScope, zone: str
) -> Iterator[Counter]:
    """Make one counter per stated window, requests before tokens, short before long."""
    for unit in (Unit.REQUESTS, Unit.TOKENS):
        for period in Period:
            limit = getattr(limits, f"{unit.value}_per_{period.value}", None)
            if limit is not None:
                yield Counter(
                    key=f"{unit.value}/{period.value}:{owner}",
                    unit=unit,
                    period=period,
                    limit=limit,
                    scope=scope,
                    label=f"{name} {unit.value}/{period.value}",
                    zone=zone if period in CALENDAR else "UTC",
                )


def _caps(
    strategy: config.Strategy,
    layer: config.Layer,
    entry: config.Model,
    billing: Billing,
    caps: Mapping[CapKey, Cap],
) -> Iterator[Counter]:
    """Make the money caps, at list value.

    A model's and a layer's own cap holds also where they are free, because it stands there; a cap
    that stands at another entry of the model, and those of provider and strategy, count paid
    models only (R15).
    """
    is_free, own = billing is Billing.FREE, strategy.providers.get(entry.provider)
    owner = f"{entry.provider}/{entry.model}"
    if entry.cap_nanos is not None:
        of_model: Cap | None = cap(strategy, layer, entry)
    else:
        of_model = None if is_free else caps.get((entry.provider, entry.model))
    if of_model is not None:
        name = f"{entry.model} monthly cap"
        yield _cap(owner, of_model.nanos, CounterScope.MODEL, name, of_model.day)
    if layer.cap_nanos is not None:
        owner, name = f"layer/{layer.was or layer.name}", f"{layer.name} monthly cap"
        day = layer.cap_resets or strategy.cap_resets or 1
        yield _cap(owner, layer.cap_nanos, CounterScope.LAYER, name, day)
    if is_free:
        return
    provider_cap = None
    if own is not None:
        provider_cap = own.monthly_cap if own.monthly_cap is not None else own.monthly_budget
    if provider_cap is not None:
        owner, name = f"provider/{entry.provider}", f"{entry.provider} monthly cap"
        yield _cap(owner, provider_cap, CounterScope.ACCOUNT, name, strategy.cap_resets or 1)
    if strategy.cap_nanos is not None:
        name, day = "monthly cap of the strategy", strategy.cap_resets or 1
        yield _cap("strategy", strategy.cap_nanos, CounterScope.STRATEGY, name, day)


def _cap(owner: str, nanos: int, scope: CounterScope, label: str, day: int) -> Counter:
    return Counter(
        key=f"{Unit.NANOS.value}/{Period.MONTH.value}:{owner}",
        unit=Unit.NANOS,
        period=Period.MONTH,
        limit=nanos,
        scope=scope,
        label=label,
        reset_day=day,
    )
