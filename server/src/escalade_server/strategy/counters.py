"""Counters of a model: its own windows and cap, its account's, its layer's, the strategy's (R18).

Keys are stable over reloads: rate limits by provider, account and model; money caps over all
accounts; layer caps by layer, under its first name if it was renamed.
"""

from collections.abc import Iterator

from escalade_server.core.catalog import Billing, Counter, CounterScope, Period, Unit
from escalade_server.strategy import model as config

CALENDAR = {Period.DAY, Period.WEEK, Period.MONTH}
"""Windows that end at an instant of the calendar; the others slide (R18)."""


def model_counters(
    strategy: config.Strategy,
    layer: config.Layer,
    entry: config.Model,
    zone: str,
    billing: Billing,
) -> tuple[Counter, ...]:
    """List every counter that a call of the model touches."""
    own = strategy.providers.get(entry.provider)
    return (
        *_windows(entry.rate_limit, _of_model(entry), entry.model, CounterScope.MODEL, zone),
        *(_windows_of_account(own, entry, zone) if own else ()),
        *_caps(strategy, layer, entry, own, billing),
    )


def _of_model(entry: config.Model) -> str:
    return f"{entry.provider}/{entry.account}/{entry.model}"


def _windows_of_account(own: config.Provider, entry: config.Model, zone: str) -> Iterator[Counter]:
    account = f"{entry.provider}/{entry.account}"
    return _windows(own.rate_limit, account, account, CounterScope.ACCOUNT, zone)


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
    own: config.Provider | None,
    billing: Billing,
) -> Iterator[Counter]:
    """Make the money caps, at list value.

    A model's and a layer's own cap holds also where they are free, because it stands there; caps
    of provider and strategy count paid models only (R15).
    """
    day = entry.cap_resets or layer.cap_resets or strategy.cap_resets or 1
    if entry.cap_nanos is not None:
        owner, name = f"{entry.provider}/{entry.model}", f"{entry.model} monthly cap"
        yield _cap(owner, entry.cap_nanos, CounterScope.MODEL, name, day)
    if layer.cap_nanos is not None:
        owner, name = f"layer/{layer.was or layer.name}", f"{layer.name} monthly cap"
        day = layer.cap_resets or strategy.cap_resets or 1
        yield _cap(owner, layer.cap_nanos, CounterScope.LAYER, name, day)
    if billing is Billing.FREE:
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
