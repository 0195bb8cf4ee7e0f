"""Pure choices: who is eligible and why not, in what order, and where a task starts."""

from collections.abc import Iterable
from typing import NamedTuple

from escalade_server.core import complexity, words
from escalade_server.core.catalog import (
    AbsenceKind,
    Catalog,
    Comparison,
    ComplexityTrigger,
    Condition,
    Counter,
    DataPolicy,
    Layer,
    LayerTrigger,
    Model,
    OnComplexity,
    TaskType,
    Trigger,
    Unit,
)
from escalade_server.core.commands import Candidate
from escalade_server.core.experience import Experience, class_of
from escalade_server.core.failure import NEVER_MS, FailureClass
from escalade_server.core.need import Need
from escalade_server.core.standing import (
    OK,
    Balance,
    Cause,
    CircuitState,
    Denial,
    Standing,
    Verdict,
    VerdictClass,
)
from escalade_server.core.trace import Clamp


def effective(verdict: Verdict) -> VerdictClass:
    """Class of a verdict for triggers: a tried model keeps the class of its failure (R5)."""
    if verdict.cls is VerdictClass.TRIED and verdict.failure is not None:
        return class_of(verdict.failure)
    return verdict.cls


class View(NamedTuple):
    """What a verdict is made from: the need, the task's own experience, and shared state."""

    need: Need
    seen: Experience
    standing: Standing
    now_ms: int
    require: bool
    """``capability_matching: require``."""


def _policy(model: Model, layer: Layer, need: Need) -> Verdict | None:
    """Limits of caller and strategy; nothing of it changes while the task runs."""
    note, cause = "", Cause.CONSTRAINT
    names = {model.id, f"{model.provider}/{model.id}", model.key}
    if not need.lowest <= layer.index <= need.highest:
        note = "outside the layers that the caller allows"
    elif need.free_only and layer.is_paid:
        note, cause = "costs money; the caller is free-only", Cause.FREE_ONLY
    elif not need.denied.isdisjoint(names):
        note = "denied by the caller"
    elif need.allowed and need.allowed.isdisjoint(names):
        note = "not among the caller's models"
    elif layer.consent_required and need.consented.isdisjoint((layer.name, "*")):
        note, cause = f"{layer.name} needs the caller's consent", Cause.CONSENT
    elif need.private and model.data is not DataPolicy.LOCAL:
        note, cause = "the task is private, the model is not local", Cause.DATA_POLICY
    return Verdict(VerdictClass.POLICY, cause, note) if note else None


def _fit(model: Model, view: View) -> Verdict | None:
    """What the model cannot do, whatever its quota."""
    need, window, note, cause = view.need, model.context_tokens, "", Cause.CONTEXT_TOO_SMALL
    if not need.features <= model.features:
        missing = ", ".join(sorted(f.value for f in need.features - model.features))
        note, cause = f"has no {missing}", Cause.FEATURE_MISSING
    elif window is not None and need.input_estimate > window:
        note = f"about {need.input_estimate:,} tokens do not fit into {window:,}"
    elif window is not None and window <= view.seen.context_floor:
        note = f"its window of {window:,} tokens is too small"
    elif view.require and not need.matches(model):
        note, cause = "does not declare the capability", Cause.CAPABILITY_MISSING
    return Verdict(VerdictClass.UNFIT, cause, note) if note else None


def _in_this_task(model: Model, layer: Layer, seen: Experience) -> Verdict | None:
    tried = seen.tried.get(model.position)
    if tried is not None:
        return tried
    if layer.index in seen.rejected_layers:
        return Verdict(
            VerdictClass.REJECTED, Cause.GATE_FAILED, "an answer of this layer failed its gate"
        )
    if layer.index in seen.left_layers or (layer.index, model.provider) in seen.out_providers:
        note = f"{model.provider} failed in this task"
        return Verdict(VerdictClass.DOWN, Cause.FAILED_HERE, note, None, FailureClass.OUTAGE)
    return None


def _health(model: Model, standing: Standing, now_ms: int) -> Verdict | None:
    for key in (model.key, model.account_key, model.provider) if standing.benches else ():
        bench = standing.benches.get(key)
        if bench is not None and bench.until_ms > now_ms:
            cls = class_of(bench.cls)
            return Verdict(cls, Cause.COOLDOWN, bench.detail, bench.until_ms, bench.cls)
    circuit = standing.circuits.get(model.provider)
    if circuit is not None and circuit.state is CircuitState.OPEN and circuit.until_ms > now_ms:
        note, until = f"{model.provider} keeps failing; it is probed again soon", circuit.until_ms
        return Verdict(VerdictClass.DOWN, Cause.CIRCUIT_OPEN, note, until, FailureClass.OUTAGE)
    return None


def _room(candidate: Candidate, view: View) -> Verdict | None:
    """Ask every counter that the call would touch; the store asks again, atomically."""
    balances, now_ms = view.standing.balances, view.now_ms
    for counter in candidate.model.counters:
        amount, limit = candidate.amount(counter), counter.limit
        balance = balances.get(counter.key)
        live = balance is not None and balance.ends_ms > now_ms
        if amount > limit or not limit:
            whole = words.usd(limit) if counter.unit is Unit.NANOS else f"{limit:,}"
            note = f"one call needs more than the whole of {whole} ({counter.label})"
            return Verdict(VerdictClass.UNFIT, Cause.NEVER_FITS, note, NEVER_MS)
        if balance is not None and live and balance.spent + balance.held + amount > limit:
            held_only = balance.spent + amount <= limit
            return _full(counter, balance, held_only=held_only)
    limit_nanos = view.need.spend_limit_nanos
    if limit_nanos is not None and candidate.model.is_paid:
        if view.seen.spent_nanos + candidate.nanos > limit_nanos:
            worst, most = words.usd(candidate.nanos), words.usd(limit_nanos)
            note = f"may cost {worst}; the task may spend {most}"
            return Verdict(VerdictClass.MONEY, Cause.SPEND_LIMIT, note, NEVER_MS)
    return None


def _full(counter: Counter, balance: Balance, *, held_only: bool) -> Verdict:
    used = balance.spent + balance.held
    if held_only:
        return Verdict(VerdictClass.HELD, Cause.HELD, "", None, None, counter, used)
    if counter.unit is Unit.NANOS:
        cls, cause = VerdictClass.MONEY, Cause.CAP_SPENT
    else:
        cls, cause = VerdictClass.RATE, Cause.WINDOW_FULL
    return Verdict(cls, cause, "", balance.ends_ms, None, counter, used)


def _window_full(model: Model, view: View) -> Verdict | None:
    """See quickly that a window of requests is full, without working out the call's bounds."""
    balances = view.standing.balances
    for counter in model.counters:
        if counter.unit is Unit.REQUESTS:
            balance = balances.get(counter.key)
            full = balance is not None and 0 < counter.limit <= balance.spent
            if balance is not None and full and balance.ends_ms > view.now_ms:
                return _full(counter, balance, held_only=False)
    return None


def judge(model: Model, layer: Layer, view: View) -> tuple[Verdict, Candidate | None]:
    """Say what stands against a model for this task, the most lasting reason first (R5).

    A model that is ``ok`` comes with its candidate. The checks that most tasks do not need are
    behind a test of their own: this is asked for every model of every layer that is passed.
    """
    need, seen, standing, now_ms, _ = view
    verdict: Verdict | None = None
    if need.restricted or layer.consent_required:
        verdict = _policy(model, layer, need)
    verdict = verdict or _fit(model, view)
    if verdict is None and seen.eventful:
        verdict = _in_this_task(model, layer, seen)
    if verdict is None and model.absence is not None:
        cause = Cause.NO_KEY if model.absence.kind is AbsenceKind.NO_KEY else Cause.NOT_BUILT
        verdict = Verdict(VerdictClass.DOWN, cause, model.absence.detail, NEVER_MS)
    if verdict is None and (standing.benches or standing.circuits):
        verdict = _health(model, standing, now_ms)
    verdict = verdict or _window_full(model, view)
    if verdict is not None:
        return verdict, None
    candidate = need.candidate(model, standing.output_means.get(model.key))
    return _room(candidate, view) or OK, candidate


def _denied(denial: Denial, model: Model) -> Verdict:
    """Turn the store's own refusal into a verdict; it beats what we thought we knew."""
    counter = next(c for c in model.counters if c.key == denial.counter_key)
    if denial.never_fits:
        note = f"one call needs more than the whole of {counter.label}"
        return Verdict(VerdictClass.UNFIT, Cause.NEVER_FITS, note, NEVER_MS)
    return _full(counter, denial.balance, held_only=denial.held_only)


def refused(
    candidates: tuple[Candidate, ...], denials: tuple[Denial, ...]
) -> dict[int, Verdict]:
    """Turn what the store refused into verdicts by position."""
    models = {c.model.position: c.model for c in candidates} if denials else {}
    return {d.position: _denied(d, models[d.position]) for d in denials}


def ranked(layer: Layer, need: Need) -> Iterable[Model]:
    """Order a layer: models that declare what the task needs, then the rest, in file order."""
    if not need.capabilities:
        return layer.models
    return sorted(layer.models, key=lambda model: not need.matches(model))


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


def capability_start(catalog: Catalog, need: Need, kind: TaskType) -> int:
    """Index of the first layer in which a model declares what the task needs (R1)."""
    last = len(catalog.layers) - 1
    pinned = kind.start
    if pinned is not None:
        return last if pinned < 0 else min(pinned - 1, last)
    if need.capabilities:
        for layer in catalog.layers:
            if any(need.matches(model) for model in layer.models):
                return layer.index
    return 0


def admits(layer: Layer, need: Need) -> bool:
    """Tell whether the caller's limits let any model of a layer be used at all."""
    if not need.restricted and not layer.consent_required:
        return True
    return any(_policy(model, layer, need) is None for model in layer.models)


def start(
    catalog: Catalog, need: Need, kind: TaskType, units: int
) -> tuple[int, int, Clamp | None]:
    """Say where a task starts: index of the start, of the score's target, and what clamped it."""
    target, begin = jump_target(catalog, units), capability_start(catalog, need, kind)
    if target and catalog.rules.on_complexity is OnComplexity.NEXT_LAYER:
        target = min(begin + 1, len(catalog.layers) - 1)
    wanted, clamped = max(target, begin), None
    if wanted < need.lowest:
        wanted, clamped = need.lowest, Clamp.LOWEST_LAYER
    elif wanted > need.highest:
        wanted, clamped = need.highest, Clamp.HIGHEST_LAYER
    down = range(wanted, -1, -1)
    index = next((i for i in down if admits(catalog.layers[i], need)), wanted)
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
