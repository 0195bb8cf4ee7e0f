"""Strategies drawn from a seed: layers, models, limits of every kind, triggers, values, agents."""

from random import Random

from escalade_server.core.absence import Absence, AbsenceKind
from escalade_server.core.catalog import (
    DEFAULT_ACCOUNT,
    Agent,
    Billing,
    Catalog,
    Counter,
    CounterScope,
    DataPolicy,
    Layer,
    Model,
    Period,
    Scoring,
    TaskType,
    Unit,
)
from escalade_server.core.gates import Quality
from escalade_server.core.money import Price
from escalade_server.core.rules import (
    OnComplexity,
    OnOutage,
    OnRateLimit,
    OnTargetExhausted,
    Rules,
)
from escalade_server.core.task import MICRO, DataDemand, Feature
from escalade_server.core.triggers import (
    Comparison,
    ComplexityTrigger,
    Condition,
    LayerTrigger,
    Trigger,
)
from escalade_server.simulation.chance import between, maybe, pick

PROVIDERS = ("alpha", "beta", "gamma", "delta", "epsilon")
LAYERS = ("free", "budget", "standard", "premium")
SKILLS = ("parsing", "planning", "debugging", "architecture")
ZONES = ("UTC", "America/Los_Angeles", "Europe/Berlin", "Asia/Kolkata")
PERIODS = tuple(Period)
LONG = (Period.DAY, Period.WEEK, Period.MONTH)
TYPES = {
    "parse": TaskType("parse", 1, frozenset({"parsing"})),
    "plan": TaskType("plan", 3, frozenset({"planning"})),
    "debug": TaskType("debug", 7, frozenset({"debugging"})),
    "architecture": TaskType("architecture", 9, frozenset({"architecture"})),
    "first": TaskType("first", 5, frozenset(), 1),
    "last": TaskType("last", 5, frozenset(), -1),
}
OTHER = TaskType("other", 5, frozenset())
AGENTS = ("robot", "pauper", "miser")
MILLI_USD = 1_000_000


def draw_catalog(rng: Random) -> Catalog:
    """Draw a whole strategy."""
    count = pick(rng, (2, 2, 3, 3, 3, 4))
    names = LAYERS[:count] if count < len(LAYERS) else LAYERS
    providers = PROVIDERS[: between(rng, 1, len(PROVIDERS))]
    accounts = {name: _account_counters(rng, name) for name in providers}
    strategy_cap = _cap(rng, "strategy", CounterScope.STRATEGY) if maybe(rng, 15) else ()
    layers: list[Layer] = []
    position = 0
    for index, name in enumerate(names):
        billing = pick(rng, _BILLING[min(index, 2)])
        shared = strategy_cap
        if index and maybe(rng, 40):
            shared = (*shared, *_cap(rng, name, CounterScope.LAYER))
        models = []
        for _ in range(between(rng, 1, 5)):
            provider = pick(rng, providers)
            account = (*accounts[provider], *shared)
            place = (name, index, position)
            models.append(_model(rng, provider, place, billing, account))
            position += 1
        triggers = _triggers(rng, names[:index]) if index and maybe(rng, 45) else ()
        consent = index > 0 and maybe(rng, 12)
        layers.append(Layer(name, index, index + 1, tuple(models), triggers, consent))
    jump = pick(rng, (None, None, 5 * MICRO, 8 * MICRO))
    return Catalog(
        tuple(layers), Scoring(threshold_micro=jump), _rules(rng), TYPES, {"parsing": "parse"},
        OTHER, baseline=layers[-1].models[0], agents=_agents(rng) if maybe(rng, 30) else {},
    )  # fmt: skip


_BILLING = (
    (Billing.FREE, Billing.FREE, Billing.FREE, Billing.METERED),
    (Billing.SUBSCRIPTION, Billing.METERED, Billing.FREE),
    (Billing.METERED, Billing.METERED, Billing.SUBSCRIPTION),
)


def _model(
    rng: Random, provider: str, place: tuple[str, int, int], billing: Billing,
    shared: tuple[Counter, ...],
) -> Model:  # fmt: skip
    layer, index, position = place
    id_ = f"m{position}"
    counters = shared
    if maybe(rng, 60):
        counters = (*_windows(rng, f"{provider}/{id_}", CounterScope.MODEL), *counters)
    if maybe(rng, 35):
        counters = (*_cap(rng, f"{provider}/{id_}", CounterScope.MODEL), *counters)
    billing = Billing.FREE if maybe(rng, 8) else billing
    if billing is Billing.FREE:  # its worth counts against no cap of money (R15)
        counters = tuple(c for c in counters if c.unit is not Unit.NANOS)
    price = Price(between(rng, 0, 3_000_000), between(rng, 0, 15_000_000))
    features = frozenset(Feature) if maybe(rng, 85) else frozenset({Feature.TOOLS})
    return Model(
        provider, DEFAULT_ACCOUNT, id_, id_, "openai", layer, index, position,
        frozenset(s for s in SKILLS if maybe(rng, 35)), counters, price, billing, features,
        context_tokens=between(rng, 200, 9_000) if maybe(rng, 25) else None,
        output_tokens_max=between(rng, 100, 8_000) if maybe(rng, 30) else None,
        data=pick(rng, tuple(DataPolicy)),
        cooldown_on_limit_ms=between(rng, 1_000, 600_000) if maybe(rng, 30) else None,
        bills_after_cancel=maybe(rng, 25),
        reasoning_bound_tokens=1_000 if maybe(rng, 10) else 0,
        absence=Absence(AbsenceKind.NO_KEY, "has no key") if maybe(rng, 5) else None,
    )  # fmt: skip


def _windows(rng: Random, whose: str, scope: CounterScope) -> tuple[Counter, ...]:
    """One to three limits of requests or tokens, in windows of any length."""
    found = {}
    for _ in range(between(rng, 1, 3)):
        period = pick(rng, PERIODS)
        unit = Unit.TOKENS if maybe(rng, 30) else Unit.REQUESTS
        most = between(rng, 1, 25) * (2_000 if unit is Unit.TOKENS else 1)
        limit = 0 if maybe(rng, 2) else most
        key = f"{unit.value}/{period.value}:{whose}"
        zone = pick(rng, ZONES) if period in LONG else "UTC"
        found[key] = Counter(key, unit, period, limit, scope, key, zone)
    return tuple(found.values())


def _cap(rng: Random, whose: str, scope: CounterScope) -> tuple[Counter, ...]:
    """Cap money in a day, week or month."""
    period = pick(rng, LONG)
    key = f"nanos/{period.value}:{whose}"
    limit = between(rng, 1, 1_500) * MILLI_USD
    zone, day = pick(rng, ZONES), pick(rng, (1, 1, 14, 31))
    return (Counter(key, Unit.NANOS, period, limit, scope, key, zone, day),)


def _account_counters(rng: Random, provider: str) -> tuple[Counter, ...]:
    if maybe(rng, 75):
        return ()
    return _windows(rng, f"{provider}/{DEFAULT_ACCOUNT}", CounterScope.ACCOUNT)


def _triggers(rng: Random, below: tuple[str, ...]) -> tuple[Trigger, ...]:
    drawn: list[Trigger] = []
    for _ in range(between(rng, 1, 2)):
        if maybe(rng, 40):
            comparison, value = pick(rng, tuple(Comparison)), between(rng, 1, 9)
            text = f"task.complexity {comparison.value} {value}"
            drawn.append(ComplexityTrigger(comparison, value * MICRO, text))
        else:
            source, condition = pick(rng, below), pick(rng, tuple(Condition))
            drawn.append(LayerTrigger(source, condition, f"{source}.{condition.value}"))
    return tuple(drawn)


def _rules(rng: Random) -> Rules:
    return Rules(
        on_rate_limit=pick(rng, (OnRateLimit.NEXT_LAYER, *OnRateLimit)),
        on_complexity=pick(rng, tuple(OnComplexity)),
        on_target_exhausted=pick(rng, tuple(OnTargetExhausted)),
        on_outage=pick(rng, tuple(OnOutage)),
        require_capability=maybe(rng, 20),
        output_tokens_default=between(rng, 200, 5_000),
        quality=Quality(escalations_max=between(rng, 0, 2)),
        hold_patience_ms=pick(rng, (0, 60, 300, 300, 1_000)),
        first_token_ms=between(rng, 500, 30_000),
        idle_ms=between(rng, 500, 45_000),
        attempt_total_ms=between(rng, 5_000, 900_000),
        breaker_failures=between(rng, 1, 5),
        breaker_open_ms=between(rng, 1_000, 20_000),
    )


def _agents(rng: Random) -> dict[str, Agent]:
    counters = _windows(rng, "agent:robot", CounterScope.AGENT)
    cap = _cap(rng, "agent:miser", CounterScope.AGENT)
    limit, trusted = between(rng, 0, 60) * MILLI_USD, maybe(rng, 50)
    agents = (
        Agent("robot", counters=counters, consented_layers=("*",), trusted_reports=trusted),
        Agent("pauper", free_only=True, data_demand=DataDemand.NO_TRAINING),
        Agent("miser", spend_limit_nanos=limit, counters=cap, may_downgrade=False),
    )
    return {agent.name: agent for agent in agents}
