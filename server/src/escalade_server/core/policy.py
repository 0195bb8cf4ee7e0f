"""Pure choices: who is eligible and why not, in what order, and where a task starts."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from escalade_server.core import complexity, words
from escalade_server.core.catalog import (
    AbsenceKind,
    Catalog,
    Comparison,
    ComplexityTrigger,
    Condition,
    DataPolicy,
    Layer,
    LayerTrigger,
    Model,
    OnComplexity,
    Trigger,
    Unit,
)
from escalade_server.core.commands import Candidate
from escalade_server.core.failure import NEVER_MS, FailureClass
from escalade_server.core.need import Need
from escalade_server.core.standing import (
    OK,
    Cause,
    CircuitState,
    Denial,
    Standing,
    Verdict,
    VerdictClass,
)
from escalade_server.core.trace import Clamp

_RATE = frozenset({FailureClass.RATE_SHORT, FailureClass.QUOTA_WINDOW})
_MONEY = frozenset({FailureClass.SPEND_CAP, FailureClass.BALANCE})


def class_of(failure: FailureClass) -> VerdictClass:
    """Class of verdict that a failure amounts to for other tasks (R5)."""
    if failure in _RATE:
        return VerdictClass.RATE
    return VerdictClass.MONEY if failure in _MONEY else VerdictClass.DOWN


def effective(verdict: Verdict) -> VerdictClass:
    """Class of a verdict for triggers: a tried model keeps the class of its failure (R5)."""
    if verdict.cls is VerdictClass.TRIED and verdict.failure is not None:
        return class_of(verdict.failure)
    return verdict.cls


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
    context_floor: int = 0
    """A window of this many tokens was too small."""
    spent_nanos: int = 0
    """List value of paid layers so far, uncertain attempts at their reserve (R15)."""


def _policy(model: Model, layer: Layer, need: Need) -> Verdict | None:
    if not need.lowest <= layer.index <= need.highest:
        return Verdict(VerdictClass.POLICY, Cause.CONSTRAINT, "outside the layers the caller allows")
    if need.free_only and layer.is_paid:
        return Verdict(VerdictClass.POLICY, Cause.FREE_ONLY, "costs money; the caller is free-only")
    names = {model.id, f"{model.provider}/{model.id}", model.key}
    if need.denied and not need.denied.isdisjoint(names):
        return Verdict(VerdictClass.POLICY, Cause.CONSTRAINT, "denied by the caller")
    if need.allowed and need.allowed.isdisjoint(names):
        return Verdict(VerdictClass.POLICY, Cause.CONSTRAINT, "not among the caller's models")
    if layer.consent_required and need.consented.isdisjoint((layer.name, "*")):
        return Verdict(VerdictClass.POLICY, Cause.CONSENT, f"{layer.name} needs the caller's consent")
    if need.private and model.data is not DataPolicy.LOCAL:
        return Verdict(VerdictClass.POLICY, Cause.DATA_POLICY, "the task is private, the model not local")
    return None


def _fit(model: Model, need: Need, *, require: bool) -> Verdict | None:
    if not need.features <= model.features:
        missing = ", ".join(sorted(f.value for f in need.features - model.features))
        return Verdict(VerdictClass.UNFIT, Cause.FEATURE_MISSING, f"has no {missing}")
    window = model.context_tokens
    if window is not None and need.input_estimate > window:
        detail = f"about {need.input_estimate:,} tokens do not fit into {window:,}"
        return Verdict(VerdictClass.UNFIT, Cause.CONTEXT_TOO_SMALL, detail)
    if require and not need.matches(model):
        return Verdict(VerdictClass.UNFIT, Cause.CAPABILITY_MISSING, "does not declare the capability")
    return None


def _in_this_task(
    model: Model, layer: Layer, candidate: Candidate, need: Need, seen: Experience
) -> Verdict | None:
    if (tried := seen.tried.get(model.position)) is not None:
        return tried
    if layer.index in seen.rejected_layers:
        return Verdict(VerdictClass.REJECTED, Cause.GATE_FAILED, "an answer of this layer failed its gate")
    if layer.index in seen.left_layers or (layer.index, model.provider) in seen.out_providers:
        return Verdict(
            VerdictClass.DOWN, Cause.FAILED_HERE, f"{model.provider} failed in this task",
            failure=FailureClass.OUTAGE,
        )  # fmt: skip
    window = model.context_tokens
    if seen.context_floor and window is not None and window <= seen.context_floor:
        return Verdict(VerdictClass.UNFIT, Cause.CONTEXT_TOO_SMALL, f"window of {window:,} tokens")
    limit = need.spend_limit_nanos
    if limit is not None and layer.is_paid and seen.spent_nanos + candidate.nanos > limit:
        detail = f"may cost {words.usd(candidate.nanos)}; the task may spend {words.usd(limit)}"
        return Verdict(VerdictClass.MONEY, Cause.SPEND_LIMIT, detail, NEVER_MS)
    return None


def _health(model: Model, standing: Standing, now_ms: int) -> Verdict | None:
    absence = model.absence
    if absence is not None:
        no_key = absence.kind is AbsenceKind.NO_KEY
        cause = Cause.NO_KEY if no_key else Cause.NOT_BUILT
        return Verdict(VerdictClass.DOWN, cause, absence.detail, NEVER_MS)
    if standing.benches:
        for key in (model.key, model.account_key, model.provider):
            bench = standing.benches.get(key)
            if bench is not None and bench.until_ms > now_ms:
                return Verdict(
                    class_of(bench.cls), Cause.COOLDOWN, bench.detail, bench.until_ms, bench.cls
                )
    if standing.circuits:
        circuit = standing.circuits.get(model.provider)
        if circuit is not None and circuit.state is CircuitState.OPEN and circuit.until_ms > now_ms:
            detail = f"{model.provider} keeps failing; it is probed again soon"
            return Verdict(
                VerdictClass.DOWN, Cause.CIRCUIT_OPEN, detail, circuit.until_ms, FailureClass.OUTAGE
            )
    return None


def _room(candidate: Candidate, standing: Standing, now_ms: int) -> Verdict | None:
    balances = standing.balances
    for counter in candidate.model.counters:
        amount = candidate.amount(counter)
        limit = counter.limit
        money = counter.unit is Unit.NANOS
        if amount > limit or not limit:
            whole = words.usd(limit) if money else f"{limit:,} {counter.unit.value}"
            detail = f"needs {words.usd(amount) if money else f'{amount:,}'} of {whole} in all"
            return Verdict(VerdictClass.UNFIT, Cause.NEVER_FITS, detail, NEVER_MS)
        balance = balances.get(counter.key)
        if balance is None or balance.ends_ms <= now_ms:
            continue
        if balance.spent + balance.held + amount > limit:
            detail = words.used(counter, balance)
            if balance.spent + amount <= limit:
                return Verdict(VerdictClass.HELD, Cause.HELD, detail)
            cause = Cause.CAP_SPENT if money else Cause.WINDOW_FULL
            cls = VerdictClass.MONEY if money else VerdictClass.RATE
            return Verdict(cls, cause, detail, balance.ends_ms)
    return None


def judge(
    candidate: Candidate, layer: Layer, need: Need, seen: Experience, standing: Standing,
    now_ms: int, *, require: bool,
) -> Verdict:  # fmt: skip
    """Say what stands against a model for this task, the most lasting reason first (R5)."""
    model = candidate.model
    return (
        _policy(model, layer, need)
        or _fit(model, need, require=require)
        or _in_this_task(model, layer, candidate, need, seen)
        or _health(model, standing, now_ms)
        or _room(candidate, standing, now_ms)
        or OK
    )


def _denied(denial: Denial, model: Model) -> Verdict:
    """Turn the store's own refusal into a verdict; it beats what we thought we knew."""
    counter = next(c for c in model.counters if c.key == denial.counter_key)
    detail = words.used(counter, denial.balance)
    if denial.never_fits:
        return Verdict(VerdictClass.UNFIT, Cause.NEVER_FITS, detail, NEVER_MS)
    if denial.held_only:
        return Verdict(VerdictClass.HELD, Cause.HELD, detail)
    if counter.unit is Unit.NANOS:
        return Verdict(VerdictClass.MONEY, Cause.CAP_SPENT, detail, denial.balance.ends_ms)
    return Verdict(VerdictClass.RATE, Cause.WINDOW_FULL, detail, denial.balance.ends_ms)


def refused(
    candidates: tuple[Candidate, ...], denials: tuple[Denial, ...]
) -> dict[int, Verdict]:
    """Turn what the store refused into verdicts by position."""
    models = {c.model.position: c.model for c in candidates} if denials else {}
    return {d.position: _denied(d, models[d.position]) for d in denials}


def ranked(layer: Layer, need: Need) -> Iterator[Model]:
    """Order a layer: models that declare what the task needs, then the rest, in file order."""
    if not need.capabilities:
        return iter(layer.models)
    return iter(sorted(layer.models, key=lambda model: not need.matches(model)))


def condition_holds(condition: Condition, verdicts: list[Verdict]) -> bool:
    """Evaluate ``<layer>.<condition>`` over the verdicts of that layer's models (R5)."""
    classes = {effective(v) for v in verdicts}
    if VerdictClass.OK in classes:
        return False
    match condition:
        case Condition.EXHAUSTED | Condition.ALL_MODELS_UNAVAILABLE:
            return True
        case Condition.RATE_LIMIT_EXCEEDED:
            return VerdictClass.RATE in classes
        case Condition.BUDGET_EXHAUSTED:
            return VerdictClass.MONEY in classes


def jump_target(catalog: Catalog, units: int) -> int:
    """Index of the layer that the score alone sends a task to; 0 if not above (R3, R4)."""
    if catalog.rules.on_complexity is OnComplexity.IGNORE:
        return 0
    named = [
        (layer.index, t)
        for layer in catalog.layers
        for t in layer.triggers
        if isinstance(t, ComplexityTrigger) and t.comparison in (Comparison.GT, Comparison.GE)
    ]
    if named:
        return max((i for i, t in named if complexity.holds(t, units)), default=0)
    threshold = catalog.scoring.threshold_micro
    if threshold is not None and units > threshold * complexity.UNITS_PER_MICRO:
        return len(catalog.layers) - 1
    return 0


def capability_start(catalog: Catalog, need: Need, type_name: str) -> int:
    """Index of the first layer in which a model declares what the task needs (R1)."""
    last = len(catalog.layers) - 1
    pinned = catalog.task_type(type_name).start
    if pinned is not None:
        return last if pinned < 0 else min(pinned - 1, last)
    if need.capabilities:
        for layer in catalog.layers:
            if any(need.matches(model) for model in layer.models):
                return layer.index
    return 0


def admits(layer: Layer, need: Need) -> bool:
    """Tell whether the caller's limits let any model of a layer be used at all."""
    return any(_policy(model, layer, need) is None for model in layer.models)


def start(
    catalog: Catalog, need: Need, type_name: str, units: int
) -> tuple[int, int, Clamp | None]:
    """Say where a task starts: index of the start, of the score's target, and what clamped it."""
    target, begin = jump_target(catalog, units), capability_start(catalog, need, type_name)
    if target and catalog.rules.on_complexity is OnComplexity.NEXT_LAYER:
        target = min(begin + 1, len(catalog.layers) - 1)
    wanted, clamped = max(target, begin), None
    if wanted < need.lowest:
        wanted, clamped = need.lowest, Clamp.LOWEST_LAYER
    elif wanted > need.highest:
        wanted, clamped = need.highest, Clamp.HIGHEST_LAYER
    index = next((i for i in range(wanted, -1, -1) if admits(catalog.layers[i], need)), wanted)
    if index != wanted:
        clamped = _clamp_of(catalog.layers[index + 1], need)
    return index, target, clamped


def _clamp_of(layer: Layer, need: Need) -> Clamp:
    """Name the limit that shuts a whole layer."""
    causes = {v.cause for m in layer.models if (v := _policy(m, layer, need)) is not None}
    if Cause.FREE_ONLY in causes:
        return Clamp.FREE_ONLY
    if Cause.CONSENT in causes:
        return Clamp.CONSENT
    return Clamp.DATA if Cause.DATA_POLICY in causes else Clamp.HIGHEST_LAYER


def trigger_holds(trigger: Trigger, units: int, verdicts_of: dict[str, list[Verdict]]) -> bool:
    """Evaluate one trigger; a layer that is not in ``verdicts_of`` does not hold."""
    match trigger:
        case ComplexityTrigger():
            return complexity.holds(trigger, units)
        case LayerTrigger(layer=layer, condition=condition):
            verdicts = verdicts_of.get(layer)
            return verdicts is not None and condition_holds(condition, verdicts)
