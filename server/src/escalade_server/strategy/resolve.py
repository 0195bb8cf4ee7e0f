"""From the typed model to the core's catalog: every inference of R4, R15, R16 and R18 is here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from escalade_server.core.absence import Absence, AbsenceKind
from escalade_server.core.catalog import (
    OWN_PACE,
    Billing,
    Catalog,
    Counter,
    CounterScope,
    DataPolicy,
    Layer,
    Model,
    Pace,
    Scoring,
    TaskType,
    Unit,
)
from escalade_server.core.money import worst_cost_nanos
from escalade_server.core.rules import Rules
from escalade_server.core.triggers import Comparison, ComplexityTrigger, Trigger
from escalade_server.strategy import model as config
from escalade_server.strategy.accounts import Seat, caps, seats
from escalade_server.strategy.agents import agents
from escalade_server.strategy.counters import model_counters, ordinary_counters
from escalade_server.strategy.credentials import Credential
from escalade_server.strategy.errors import Level, Notice, Path, StrategyError
from escalade_server.strategy.prices import Listing, listing
from escalade_server.strategy.quality import quality
from escalade_server.strategy.siblings import with_siblings
from escalade_server.strategy.validate import TOP
from escalade_server.strategy.vendors import VENDORS, Vendor
from escalade_server.strategy.vocabulary import OTHER, TYPES
from escalade_server.strategy.yaml_nodes import Document

REFERENCE_INPUT, REFERENCE_OUTPUT = 3_730, 540
"""Tokens of the mean agent task: what "the dearest model" is judged by (R15)."""

DEFAULT_ALERTS = (80, 100)
JUMPS = {Comparison.GT, Comparison.GE}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the catalog depends on besides the file."""

    credentials: Mapping[tuple[str, str], Credential]
    """By provider and account."""
    built_dialects: frozenset[str]
    assume_keys: bool
    today: date


class Resolver:
    """Resolves one strategy; gathers notices on the way."""

    def __init__(self, document: Document, strategy: config.Strategy, around: Surroundings) -> None:
        self.document = document
        self.strategy = strategy
        self.around = around
        self.notices: list[Notice] = []
        self.errors: list[StrategyError] = []
        self.caps = caps(strategy)
        self.counters: dict[str, tuple[Counter, Path]] = {}
        self.vendors = {
            name: vendor_of(name, strategy.providers.get(name))
            for name in {*VENDORS, *strategy.providers}
        }

    def note(self, level: Level, code: str, path: Path, sentence: str, mend: str = "") -> None:
        """Gather a notice about a place in the file."""
        self.notices.append(Notice(level, code, self.document.line(path), sentence, mend))

    def catalog(self) -> Catalog:
        """Resolve the whole strategy."""
        order = ordered(self.strategy.layers)
        position = 0
        layers: list[Layer] = []
        for index, (place, layer) in enumerate(order):
            layers.append(self.layer(layer, place, index, position))
            position += len(layers[-1].models)
        scoring, resolved = self.scoring(with_siblings(layers))
        types, aliases = task_types(self.strategy)
        return Catalog(
            layers=tuple(resolved),
            scoring=scoring,
            rules=rules(self.strategy, lambda word: type_name(word, types, aliases)),
            task_types=types,
            type_aliases=aliases,
            other_type=types.get(OTHER.name, OTHER),
            baseline=baseline(self.strategy, resolved),
            baselines=baselines(self.strategy, resolved),
            capability_aliases=dict(self.strategy.capability_aliases),
            agents=agents(self.strategy, resolved),
        )

    def layer(self, layer: config.Layer, place: int, index: int, position: int) -> Layer:
        """Resolve one layer; ``place`` is its place in the file, ``index`` in the order."""
        path: Path = (TOP, "layers", place)
        taken = list(seats(self.strategy, layer))
        models = tuple(
            self.model(layer, seat, (*path, "models", seat.number), index, position + offset)
            for offset, seat in enumerate(taken)
        )
        triggers = tuple(
            replace(trigger, line=self.document.spot((*path, "trigger", number)).line)
            for number, trigger in enumerate(layer.trigger or [])
        )
        if layer.cap_nanos is not None and not any(model.is_paid for model in models):
            sentence = f"{layer.name} is free: its monthly cap counts list value."
            self.note(Level.ADVICE, "CAP_ON_FREE", path, sentence, "Remove the cap or the 0.")
        return Layer(
            name=layer.name,
            index=index,
            priority=place + 1 if layer.priority is None else layer.priority,
            models=models,
            triggers=triggers,
            consent_required=layer.consent == "required",
            fee_nanos=fee_nanos(layer, taken, models),
        )

    def model(
        self, layer: config.Layer, seat: Seat, path: Path, index: int, position: int
    ) -> Model:
        """Resolve one model of a layer on one account."""
        entry = seat.entry
        vendor = self.vendors[entry.provider]
        wire_id = vendor.aliases.get(entry.model, entry.model)
        billing, reason = billing_of(layer, entry, is_first=index == 0)
        data = data_of(layer, entry, self.strategy.providers.get(entry.provider), vendor, billing)
        known = listing(entry.provider, wire_id, entry.price, self.around.today)
        if known.is_guess and data is DataPolicy.LOCAL:
            known = listing("ollama", wire_id, None, self.around.today)
        counters = model_counters(
            self.strategy,
            layer,
            seat,
            zone=seat.zone or vendor.zone,
            billing=billing,
            caps=self.caps,
        )
        self.refuse_two_limits(counters, path)
        uncapped = reason == UNCAPPED and all(c.unit is not Unit.NANOS for c in counters)
        self.say_price(entry, path, known)
        self.say_billing(entry, path, billing, uncapped=uncapped)
        aliases = self.strategy.capability_aliases
        features = known.features or vendor.features
        cooldown = entry.rate_limit.cooldown_on_limit if entry.rate_limit else None
        return Model(
            provider=entry.provider,
            account=seat.account,
            id=entry.model,
            wire_id=wire_id,
            dialect=vendor.dialect,
            layer=layer.name,
            layer_index=index,
            position=position,
            capabilities=frozenset(aliases.get(word, word) for word in entry.capabilities),
            counters=counters,
            price=known.price,
            billing=billing,
            features=frozenset(entry.features) if entry.features is not None else features,
            context_tokens=entry.context_tokens or known.context_tokens,
            output_tokens_max=entry.output_tokens_max or known.output_tokens_max,
            data=data,
            cooldown_on_limit_ms=cooldown,
            bills_after_cancel=vendor.bills_after_cancel,
            absence=self.absence(seat, vendor),
            pace=pace_of(seat, self.strategy.providers.get(entry.provider)),
            ordinary=ordinary_counters(self.strategy, layer, entry),
        )

    def refuse_two_limits(self, counters: Sequence[Counter], path: Path) -> None:
        """What is counted once has one limit, though it may stand at several entries (R18)."""
        for counter in counters:
            at = self.stated_at(counter, path)
            first, there = self.counters.setdefault(counter.key, (counter, at))
            if (first.limit, first.zone, first.reset_day) == (
                counter.limit,
                counter.zone,
                counter.reset_day,
            ):
                continue
            self.errors.append(
                self.document.error(
                    at,
                    f"{counter.label} is counted once, and has two limits",
                    f'"{self.document.spot(at).text}"',
                    mend=f"line {self.document.line(there)} says otherwise: make them the same",
                )
            )

    def stated_at(self, counter: Counter, path: Path) -> Path:
        """Find the key at a model, or else the model, that a counter comes from."""
        if counter.scope is not CounterScope.MODEL:
            return (*path, "model")
        names = ("monthly_cap", "monthly_budget") if counter.unit is Unit.NANOS else ("rate_limit",)
        stated = ((*path, name) for name in names if (*path, name) in self.document.keys)
        return next(stated, (*path, "model"))

    def absence(self, seat: Seat, vendor: Vendor) -> Absence | None:
        """Say why this server cannot call a model, if so."""
        provider = seat.entry.provider
        if vendor.dialect not in self.around.built_dialects:
            detail = f"the dialect {vendor.dialect} of {provider} is not built yet"
            return Absence(AbsenceKind.NOT_BUILT, detail)
        missing = self.around.credentials[provider, seat.account].missing
        if missing and not self.around.assume_keys:
            return Absence(AbsenceKind.NO_KEY, missing)
        return None

    def say_price(self, entry: config.Model, path: Path, known: Listing) -> None:
        """Say it loudly when a price had to be guessed (R17)."""
        if known.is_guess:
            sentence = (
                f"no price is known for {entry.provider}/{entry.model}: "
                f"it counts at {known.price.source}, so its caps end early."
            )
            self.note(
                Level.WARNING,
                "PRICE_UNKNOWN",
                (*path, "model"),
                sentence,
                "Look whether its name is right, or add `price:` to it.",
            )

    def say_billing(
        self, entry: config.Model, path: Path, billing: Billing, *, uncapped: bool
    ) -> None:
        """Say what was inferred beyond the file's own words (R16)."""
        name = f"{entry.provider}/{entry.model}"
        if uncapped:
            sentence = f"{name} is metered without any cap."
            self.note(Level.ADVICE, "UNCAPPED", (*path, "model"), sentence, "Add `monthly_cap:`.")
        if billing is Billing.FREE and entry.cap_nanos is not None:
            sentence = f"{name} is free: its monthly cap counts list value."
            self.note(Level.ADVICE, "CAP_ON_FREE", path, sentence, "Remove the cap or the 0.")

    def scoring(self, layers: Sequence[Layer]) -> tuple[Scoring, list[Layer]]:
        """Resolve weights and threshold; the threshold replaces the jump's number (R4)."""
        own = self.strategy.complexity_scoring or config.ComplexityScoring()
        threshold = own.threshold_for_premium
        jump = last_jump(layers)
        resolved = list(layers)
        if jump is not None:
            index, trigger = jump
            if threshold is None:
                threshold = trigger.value_micro
            elif threshold != trigger.value_micro:
                self.say_two_thresholds(trigger)
                changed = replace(trigger, value_micro=threshold)
                triggers = tuple(
                    changed if one == trigger else one for one in layers[index].triggers
                )
                resolved[index] = replace(layers[index], triggers=triggers)
        files, depth = own.file_count_weight, own.reasoning_depth_weight
        context, default = own.context_length_weight, Scoring()
        scoring = Scoring(
            default.files_weight_micro if files is None else files,
            default.depth_weight_micro if depth is None else depth,
            default.context_weight_micro if context is None else context,
            threshold,
        )
        return scoring, resolved

    def say_two_thresholds(self, trigger: ComplexityTrigger) -> None:
        """Name both lines when two thresholds differ (R4)."""
        key = ("complexity_scoring", "threshold_for_premium")
        path: Path = key if key in self.document.keys else (TOP, *key)
        sentence = (
            f"threshold_for_premium on line {self.document.line(path)} replaces the number "
            f'of "{trigger.text}" on line {trigger.line}.'
        )
        self.note(Level.WARNING, "TWO_THRESHOLDS", path, sentence, "Make them the same.")


def ordered(layers: Sequence[config.Layer]) -> list[tuple[int, config.Layer]]:
    """Sort layers by priority, with their places in the file."""
    places = list(enumerate(layers))
    return sorted(places, key=lambda e: e[0] + 1 if e[1].priority is None else e[1].priority)


def vendor_of(name: str, own: config.Provider | None) -> Vendor:
    """Lay what the file says of a provider over what is built in."""
    known = VENDORS.get(name) or Vendor("", "openai", ())
    if own is None:
        return known
    return replace(
        known,
        base_url=own.base_url or known.base_url,
        dialect=own.dialect or known.dialect,
        zone=own.reset_zone or known.zone,
        aliases=known.aliases | own.model_aliases,
    )


def data_of(
    layer: config.Layer,
    entry: config.Model,
    own: config.Provider | None,
    vendor: Vendor,
    billing: Billing,
) -> DataPolicy:
    """Say what may happen to prompts: model, layer, provider, then the vendor's word (R28)."""
    stated = entry.data or layer.data or (own.data if own else None)
    if stated is not None:
        return stated
    if billing is Billing.FREE and vendor.data_when_free is not None:
        return vendor.data_when_free
    return vendor.data


UNCAPPED = "uncapped"


def billing_of(layer: config.Layer, entry: config.Model, *, is_first: bool) -> tuple[Billing, str]:
    """Infer how a model is paid for, in exactly the order of R16, and say by which step."""
    stated = entry.billing or layer.billing
    if stated is not None:
        return stated, "stated"
    if layer.cost_per_month == 0:
        return Billing.FREE, "cost_per_month is 0"
    if layer.cap_nanos is not None:
        return Billing.METERED, "the layer has a cap"
    if entry.cap_nanos is not None:
        return Billing.SUBSCRIPTION, "the model has a cap"
    if is_first:
        return Billing.FREE, "assumed of the first layer"
    return Billing.METERED, UNCAPPED


def fee_nanos(layer: config.Layer, taken: Sequence[Seat], models: Sequence[Model]) -> int:
    """Find the fee, or the plan of a metered layer: stated, else the sum of the caps (R16).

    A cap that holds over several accounts is one cap.
    """
    if layer.cost_per_month is not None:
        return layer.cost_per_month
    plans = {
        (model.provider, model.id): seat.entry.cap_nanos or 0
        for seat, model in zip(taken, models, strict=True)
        if model.billing is Billing.SUBSCRIPTION
    }
    return sum(plans.values())


def last_jump(layers: Sequence[Layer]) -> tuple[int, ComplexityTrigger] | None:
    """Find the jump of the last layer that names the complexity (R4)."""
    found: tuple[int, ComplexityTrigger] | None = None
    for layer in layers:
        jump = next(filter(is_jump, layer.triggers), None)
        if isinstance(jump, ComplexityTrigger):
            found = (layer.index, jump)
    return found


def is_jump(trigger: Trigger) -> bool:
    """Only ``>`` and ``>=`` make a jump (R4)."""
    return isinstance(trigger, ComplexityTrigger) and trigger.comparison in JUMPS


def task_types(strategy: config.Strategy) -> tuple[dict[str, TaskType], dict[str, str]]:
    """Lay the file's task types over the table (R2); answer types and spellings."""
    types = {name: TaskType(name, row.depth, frozenset(row.needs)) for name, row in TYPES.items()}
    types[OTHER.name] = OTHER
    aliases = {alias: name for name, row in TYPES.items() for alias in row.aliases}
    words = strategy.capability_aliases
    for written, own in strategy.task_types.items():
        spelled = spelling(written)
        name = spelled if spelled in types else aliases.get(spelled, spelled)
        base = types.get(name, replace(OTHER, name=name))
        needs = base.needs if own.capabilities is None else frozenset(own.capabilities)
        types[name] = TaskType(
            name,
            base.depth if own.depth is None else own.depth,
            needs,
            base.start if own.start is None else own.start,
        )
        aliases |= {spelling(alias): name for alias in own.aliases}
    resolved = {
        name: replace(kind, needs=frozenset(words.get(word, word) for word in kind.needs))
        for name, kind in types.items()
    }
    return resolved, aliases


def spelling(word: str) -> str:
    """Write a task type as the catalog looks it up."""
    return word.strip().lower().replace("_", "-")


def type_name(word: str, types: Mapping[str, TaskType], aliases: Mapping[str, str]) -> str:
    """Answer the name of a task type of the file."""
    spelled = spelling(word)
    return spelled if spelled in types else aliases[spelled]


def pace_of(seat: Seat, own: config.Provider | None) -> Pace:
    """Resolve what a provider's section says of the times and the number of its calls."""
    if own is None:
        return OWN_PACE
    times, provider = own.timeouts or config.CallTimeouts(), seat.entry.provider
    most = ((provider, own.concurrency), (f"{provider}/{seat.account}", seat.concurrency))
    return Pace(
        first_token_ms=times.first_token,
        idle_ms=times.idle,
        total_ms=times.total,
        concurrency=tuple((key, count) for key, count in most if count is not None),
    )


def rules(strategy: config.Strategy, name_of: Callable[[str], str]) -> Rules:
    """Resolve the values of deciding and its limits (R7, R8, R13, R24)."""
    logic, failing = strategy.escalation_logic, strategy.failure_handling
    watching, breaker = strategy.monitoring, strategy.circuit_breaker or config.CircuitBreaker()
    times, default = strategy.timeouts or config.Timeouts(), Rules()
    keeping = strategy.idempotency or config.Idempotency()
    sessions = strategy.sessions or config.Sessions()

    def either(stated: int | None, otherwise: int) -> int:
        return otherwise if stated is None else stated

    return Rules(
        on_rate_limit=logic.rate_limit_hit,
        on_complexity=logic.complexity_high,
        on_target_exhausted=logic.on_target_exhausted,
        on_all_exhausted=failing.on_all_layers_exhausted,
        on_outage=failing.on_provider_outage,
        on_budget_alert=logic.budget_alert,
        alert_percents=alert_percents(watching),
        require_capability=strategy.capability_matching == "require",
        log_escalations=failing.log_escalation_events,
        track_tokens=watching.track_token_usage,
        daily_report=watching.daily_usage_report,
        report_zone=(strategy.reporting and strategy.reporting.zone) or default.report_zone,
        attempts_max=either(strategy.attempts_max, default.attempts_max),
        quality=quality(strategy, name_of),
        output_tokens_default=either(strategy.output_tokens_default, default.output_tokens_default),
        work_ms=either(times.work, default.work_ms),
        max_wait_ms=either(failing.max_wait, default.max_wait_ms),
        hold_patience_ms=either(times.hold_patience, default.hold_patience_ms),
        first_token_ms=either(times.first_token, default.first_token_ms),
        idle_ms=either(times.idle, default.idle_ms),
        attempt_total_ms=either(times.total, default.attempt_total_ms),
        connect_ms=either(times.connect, default.connect_ms),
        usage_grace_ms=either(times.usage_grace, default.usage_grace_ms),
        breaker_failures=either(breaker.failures, default.breaker_failures),
        breaker_open_ms=either(breaker.open_for, default.breaker_open_ms),
        keep_answers_ms=either(keeping.keep_answers, default.keep_answers_ms),
        session_sticky=sessions.sticky,
        session_evidence=sessions.evidence,
        session_ttl_ms=either(sessions.ttl, default.session_ttl_ms),
    )


def alert_percents(watching: config.Monitoring) -> tuple[int, ...]:
    """Join the list of percents with the switch for 80 (DESIGN 3)."""
    listed = watching.alert_at_budget_percent
    percents = set(DEFAULT_ALERTS if listed is None else listed)
    if watching.alert_at_budget_80_percent is not None:
        percents = percents | {80} if watching.alert_at_budget_80_percent else percents - {80}
    return tuple(sorted(percents))


def baseline(strategy: config.Strategy, layers: Sequence[Layer]) -> Model:
    """Find the one premium model that savings are measured against (R15)."""
    stated = strategy.reporting.baseline if strategy.reporting else None
    models = [model for layer in layers for model in layer.models]
    for model in models:
        if stated == f"{model.provider}/{model.id}":
            return model
    return _dearest(layers[-1])


def baselines(strategy: config.Strategy, layers: Sequence[Layer]) -> tuple[Model, ...]:
    """Name the single models of reports: the baseline, then the dearest of each layer (R15)."""
    models = [baseline(strategy, layers), *(_dearest(layer) for layer in reversed(layers))]
    priced = {f"{model.provider}/{model.id}": model for model in models if not model.price.is_zero}
    return tuple(priced.values())


def _dearest(layer: Layer) -> Model:
    return max(
        layer.models,
        key=lambda model: worst_cost_nanos(REFERENCE_INPUT, REFERENCE_OUTPUT, model.price),
    )
