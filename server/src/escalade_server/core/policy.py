"""Pure choices: who is eligible and why not, in what order, and what a trigger says."""

from collections.abc import Sequence
from typing import NamedTuple

from escalade_server.core import complexity, words
from escalade_server.core.catalog import (
    AbsenceKind,
    ComplexityTrigger,
    Condition,
    Counter,
    DataPolicy,
    Layer,
    LayerTrigger,
    Model,
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
    own_bench,
)
from escalade_server.core.task import DataDemand
from escalade_server.core.trace import Skip

ADMITTED = {
    DataDemand.NONE: frozenset(DataPolicy),
    DataDemand.NO_TRAINING: frozenset({DataPolicy.LOCAL, DataPolicy.NO_TRAINING}),
    DataDemand.PRIVATE: frozenset({DataPolicy.LOCAL}),
}
"""Models that a demand for the data admits, by what may happen to prompts there (R28)."""
_DATA_NOTE = {
    DataDemand.NO_TRAINING: "the task may not be trained on, the model does not promise that",
    DataDemand.PRIVATE: "the task is private, the model is not local",
}

# A full counter is the commonest verdict of all. Looking a member up in its enum costs five times
# a global, and a tuple's own constructor a third of a NamedTuple's.
_new = tuple.__new__
_NANOS, _RATE, _MONEY = Unit.NANOS, VerdictClass.RATE, VerdictClass.MONEY
_CAP_SPENT, _WINDOW_FULL = Cause.CAP_SPENT, Cause.WINDOW_FULL
_TRIED = VerdictClass.TRIED


def effective(verdict: Verdict) -> VerdictClass:
    """Class of a verdict for triggers: a tried model keeps the class of its failure (R5)."""
    cls = verdict.cls
    if cls is _TRIED and verdict.failure is not None:
        return class_of(verdict.failure)
    return cls


class View(NamedTuple):
    """What a verdict is made from: the need, the task's own experience, and shared state."""

    need: Need
    seen: Experience
    standing: Standing
    now_ms: int
    require: bool
    """``capability_matching: require``."""
    plain: bool = False
    """Known: only absence, window, consent and room can stand against a model; see ``view``."""


def view(need: Need, seen: Experience, standing: Standing, now_ms: int, *, require: bool) -> View:
    """Make a view, and see once what need not be looked for at each model."""
    odd = need.restricted or need.features or require or seen.eventful
    plain = not (odd or standing.benches or standing.circuits)
    return View(need, seen, standing, now_ms, require, plain)


def limits(model: Model, layer: Layer, need: Need) -> Verdict | None:
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
    elif model.data not in ADMITTED[need.data_demand]:
        note, cause = _DATA_NOTE[need.data_demand], Cause.DATA_POLICY
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


def _health(model: Model, standing: Standing, agent: str, now_ms: int) -> Verdict | None:
    keys = [model.key, model.account_key, model.provider] if standing.benches else []
    if agent:
        keys += [own_bench(agent, key) for key in keys]
    for key in keys:
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
    for counter in candidate.counters:
        amount, limit = candidate.amount(counter), counter.limit
        balance = balances.get(counter.key)
        live = balance is not None and balance.ends_ms > now_ms
        if amount > limit or not limit:
            whole = words.usd(limit) if counter.unit is _NANOS else f"{limit:,}"
            note = f"one call needs more than the whole of {whole} ({counter.label})"
            return Verdict(VerdictClass.UNFIT, Cause.NEVER_FITS, note, NEVER_MS)
        if balance is not None and live and balance.spent + balance.held + amount > limit:
            held_only = balance.spent + amount <= limit
            return _full(counter, balance, held_only=held_only)
    most = view.need.spend_limit_nanos
    if most is None or not candidate.model.is_paid:
        return None
    if view.seen.spent_nanos + candidate.nanos <= most:
        return None
    note = f"may cost {words.usd(candidate.nanos)}; the task may spend {words.usd(most)}"
    return Verdict(VerdictClass.MONEY, Cause.SPEND_LIMIT, note, NEVER_MS)


def _full(counter: Counter, balance: Balance, *, held_only: bool) -> Verdict:
    _, spent, held, ends_ms = balance
    if held_only:
        cls, cause, until = VerdictClass.HELD, Cause.HELD, None
    elif counter.unit is _NANOS:
        cls, cause, until = _MONEY, _CAP_SPENT, ends_ms
    else:
        cls, cause, until = _RATE, _WINDOW_FULL, ends_ms
    return _new(Verdict, (cls, cause, "", until, None, counter, spent + held))


def _lasting(model: Model, layer: Layer, view: View) -> Verdict | None:
    """What stands against a model but room, the most lasting reason first (R5)."""
    need, seen, standing, now_ms, require, _ = view
    verdict: Verdict | None = None
    absence = model.absence
    if need.restricted or layer.consent_required:
        verdict = limits(model, layer, need)
    if model.context_tokens is not None or need.features or require:
        verdict = verdict or _fit(model, view)
    if seen.eventful:
        verdict = verdict or _in_this_task(model, layer, seen)
    if absence is not None and verdict is None:
        cause = Cause.NO_KEY if absence.kind is AbsenceKind.NO_KEY else Cause.NOT_BUILT
        verdict = Verdict(VerdictClass.DOWN, cause, absence.detail, NEVER_MS)
    if standing.benches or standing.circuits:
        verdict = verdict or _health(model, standing, need.agent, now_ms)
    return verdict


def judge(model: Model, layer: Layer, view: View) -> tuple[Verdict, Candidate | None]:
    """Say what stands against a model for this task, the most lasting reason first (R5).

    A model that is ``ok``, and no other, comes with its candidate. This is asked for every model
    of every layer that is passed, so what most tasks do not need is behind one test, and a full
    window of requests is seen without working out the bounds of a call.
    """
    need, _, standing, now_ms, _, plain = view
    window = model.context_tokens
    fits = window is None or need.input_estimate <= window
    if not (plain and fits and model.absence is None) or layer.consent_required:
        verdict = _lasting(model, layer, view)
        if verdict is not None:
            return verdict, None
    balances = standing.balances
    for counter in model.request_counters:
        balance = balances.get(counter.key)
        if balance is not None:
            _, spent, held, ends_ms = balance
            if 0 < counter.limit <= spent and ends_ms > now_ms:
                full = (_RATE, _WINDOW_FULL, "", ends_ms, None, counter, spent + held)
                return _new(Verdict, full), None
    candidate = need.candidate(model, standing.output_means.get(model.key))
    why = _room(candidate, view)
    return (OK, candidate) if why is None else (why, None)


def _denied(denial: Denial, candidate: Candidate) -> Verdict:
    """Turn the store's own refusal into a verdict; it beats what we thought we knew."""
    counter = next(c for c in candidate.counters if c.key == denial.counter_key)
    if denial.never_fits:
        note = f"one call needs more than the whole of {counter.label}"
        return Verdict(VerdictClass.UNFIT, Cause.NEVER_FITS, note, NEVER_MS)
    return _full(counter, denial.balance, held_only=denial.held_only)


def refused(candidates: tuple[Candidate, ...], denials: tuple[Denial, ...]) -> tuple[Skip, ...]:
    """Turn what the store refused into skips."""
    named = {c.model.position: c for c in candidates} if denials else {}
    return tuple(
        Skip(candidate.model.layer, candidate.model, _denied(denial, candidate))
        for denial in denials
        for candidate in (named[denial.position],)
    )


def ranked(layer: Layer, need: Need) -> Sequence[Model]:
    """Order a layer: models that declare what the task needs, then the rest, in file order."""
    models, wanted = layer.models, need.capabilities
    if need.all_of:
        others = [model for model in models if not wanted <= model.capabilities]
    elif wanted:
        others = [model for model in models if wanted.isdisjoint(model.capabilities)]
    else:
        return models
    if not others or len(others) == len(models):
        return models
    return sorted(models, key=lambda model: not need.matches(model))


class Survey(NamedTuple):
    """A layer as one task finds it: who could be called, and why not the others."""

    good: list[Candidate]
    skips: list[Skip]

    def has(self, cls: VerdictClass) -> bool:
        """Tell whether a reason of this class stands against one of its models."""
        for skip in self.skips:
            verdict = skip.verdict
            if verdict.cls is cls or (verdict.cls is _TRIED and effective(verdict) is cls):
                return True
        return False


def condition_holds(condition: Condition, survey: Survey) -> bool:
    """Evaluate ``<layer>.<condition>`` (R5)."""
    if survey.good:
        return False
    match condition:
        case Condition.EXHAUSTED | Condition.ALL_MODELS_UNAVAILABLE:
            return True
        case Condition.RATE_LIMIT_EXCEEDED:
            return survey.has(_RATE)
        case Condition.BUDGET_EXHAUSTED:
            return survey.has(_MONEY)


def trigger_holds(trigger: Trigger, units: int, surveys: dict[str, Survey]) -> bool:
    """Evaluate one trigger; a layer that was not surveyed does not hold."""
    match trigger:
        case ComplexityTrigger():
            return complexity.holds(trigger, units)
        case LayerTrigger(layer=layer, condition=condition):
            survey = surveys.get(layer)
            return survey is not None and condition_holds(condition, survey)
