"""Pure choices: who is eligible and why not, in what order, and what a trigger says."""

from collections.abc import Mapping, Sequence

from escalade_server.core import words
from escalade_server.core.absence import AbsenceKind
from escalade_server.core.catalog import (
    Counter,
    DataPolicy,
    Layer,
    Model,
    Unit,
)
from escalade_server.core.commands import Candidate
from escalade_server.core.experience import Experience, class_of
from escalade_server.core.failure import NEVER_MS, FailureClass
from escalade_server.core.need import Need
from escalade_server.core.record import record
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
from escalade_server.core.survey import Survey
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
_TOKENS, _NANOS = Unit.TOKENS, Unit.NANOS
_RATE, _MONEY = VerdictClass.RATE, VerdictClass.MONEY
_CAP_SPENT, _WINDOW_FULL = Cause.CAP_SPENT, Cause.WINDOW_FULL


@record
class View:
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
    plain = not (odd or standing.benches or standing.circuits or standing.busy)
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
        if need.data_demand is DataDemand.NO_TRAINING and model.data is DataPolicy.TRAINS:
            note = "the task may not be trained on, the model is trained on what it is told"
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


def _in_this_task(model: Model, layer: Layer, seen: Experience, now_ms: int) -> Verdict | None:
    tried = seen.tried.get(model.position)
    if tried is not None:
        return tried
    closed = seen.closed.get(model.account_key) or seen.closed.get(model.provider)
    if closed is not None and closed.until_ms is not None and closed.until_ms > now_ms:
        return closed
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
    for key in keys if standing.disabled else ():
        bench = standing.disabled.get(key)
        if bench is not None and bench.until_ms > now_ms:
            return Verdict(VerdictClass.DOWN, Cause.DISABLED, bench.detail, bench.until_ms)
    if agent:
        keys += [own_bench(agent, key) for key in keys]
    for key in keys:
        bench = standing.benches.get(key)
        if bench is not None and bench.until_ms > now_ms:
            cls = class_of(bench.cls)
            return Verdict(cls, Cause.COOLDOWN, bench.detail, bench.until_ms, bench.cls)
    for key, why in (
        (model.provider, FailureClass.OUTAGE),
        (model.key, FailureClass.OVERLOADED),
    ):
        circuit = standing.circuits.get(key)
        if circuit is not None and circuit.state is CircuitState.OPEN and circuit.until_ms > now_ms:
            note = f"{key} keeps failing; it is probed again soon"
            return Verdict(VerdictClass.DOWN, Cause.CIRCUIT_OPEN, note, circuit.until_ms, why)
    return None


def _busy(model: Model, calls: Mapping[str, int]) -> Verdict | None:
    """All calls that a provider or an account may have at once are running: the next one ends."""
    for key, most in model.pace.concurrency:
        if calls.get(key, 0) >= most:
            note = f"{most} of {most} calls of {key} at once are running"
            return Verdict(VerdictClass.HELD, Cause.HELD, note)
    return None


def _room(candidate: Candidate, view: View) -> Verdict | None:
    """Ask every counter that the call would touch; the store asks again, atomically."""
    model, tokens, nanos = candidate.model, candidate.tokens, candidate.nanos
    balances, now_ms = view.standing.balances, view.now_ms
    for counter in model.counters + candidate.extra:
        unit, limit = counter.unit, counter.limit
        amount = nanos if unit is _NANOS else tokens if unit is _TOKENS else 1
        if amount > limit or not limit:
            whole = words.usd(limit) if unit is _NANOS else f"{limit:,}"
            note = f"one call needs more than the whole of {whole} ({counter.label})"
            return Verdict(VerdictClass.UNFIT, Cause.NEVER_FITS, note, NEVER_MS)
        balance = balances.get(counter.key)
        if balance is not None:
            _, spent, held, ends_ms = balance
            if spent + held + amount > limit and ends_ms > now_ms:
                return _full(counter, balance, held_only=spent + amount <= limit)
    most = view.need.spend_limit_nanos
    if most is None or not model.is_paid or view.seen.spent_nanos + nanos <= most:
        return None
    note = f"may cost {words.usd(nanos)}; the task may spend {words.usd(most)}"
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
    need, seen, standing = view.need, view.seen, view.standing
    verdict: Verdict | None = None
    absence = model.absence
    if need.restricted or layer.consent_required:
        verdict = limits(model, layer, need)
    if model.context_tokens is not None or need.features or view.require:
        verdict = verdict or _fit(model, view)
    if seen.eventful:
        verdict = verdict or _in_this_task(model, layer, seen, view.now_ms)
    if absence is not None and verdict is None:
        cause = Cause.NO_KEY if absence.kind is AbsenceKind.NO_KEY else Cause.NOT_BUILT
        verdict = Verdict(VerdictClass.DOWN, cause, absence.detail, NEVER_MS)
    if standing.benches or standing.circuits:
        verdict = verdict or _health(model, standing, need.agent, view.now_ms)
    if standing.busy and model.pace.concurrency:
        verdict = verdict or _busy(model, standing.busy)
    return verdict


def survey(
    models: Sequence[Model], layer: Layer, view: View, denied: Mapping[int, Verdict] | None = None
) -> Survey:
    """Judge models of a layer for this task, each by the most lasting reason against it (R5).

    ``denied`` is what the store has just said, by position. Every model of every layer that is
    passed comes by here, so what most tasks do not need is behind one test, and a full window of
    requests is seen without working out the bounds of a call.
    """
    need, standing, now_ms = view.need, view.standing, view.now_ms
    balances, estimate, name = standing.balances, need.input_estimate, layer.name
    plain = view.plain and not (layer.consent_required or denied)
    good: list[Candidate] = []
    skips: list[Skip] = []
    for model in models:
        window, verdict = model.context_tokens, None
        if not plain or model.absence is not None or (window is not None and estimate > window):
            verdict = (denied and denied.get(model.position)) or _lasting(model, layer, view)
        if verdict is None:
            for counter in model.request_counters:
                balance = balances.get(counter.key)
                if balance is not None:
                    _, spent, held, ends_ms = balance
                    if 0 < counter.limit <= spent and ends_ms > now_ms:
                        full = (_RATE, _WINDOW_FULL, "", ends_ms, None, counter, spent + held)
                        verdict = _new(Verdict, full)
                        break
            else:
                candidate = need.candidate(model, standing.output_means.get(model.key))
                verdict = _room(candidate, view)
                if verdict is None:
                    good.append(candidate)
                    continue
        skips.append(_new(Skip, (name, model, verdict)))
    return Survey(good, skips)


def judge(model: Model, layer: Layer, view: View) -> tuple[Verdict, Candidate | None]:
    """Say what stands against one model; one that is ``ok``, and no other, has a candidate."""
    found = survey((model,), layer, view)
    return (OK, found.good[0]) if found.good else (found.skips[0].verdict, None)


def _denied(denial: Denial, candidate: Candidate) -> Verdict:
    """Turn the store's own refusal into a verdict; it beats what we thought we knew."""
    counter = next(c for c in candidate.counters if c.key == denial.counter_key)
    if denial.never_fits:
        note = f"one call needs more than the whole of {counter.label}"
        return Verdict(VerdictClass.UNFIT, Cause.NEVER_FITS, note, NEVER_MS)
    return _full(counter, denial.balance, held_only=denial.held_only)


def refused(candidates: tuple[Candidate, ...], denials: tuple[Denial, ...]) -> tuple[Skip, ...]:
    """Turn what the store refused into skips."""
    if not denials:
        return ()
    named = {c.model.position: c for c in candidates}
    return tuple(
        Skip(candidate.model.layer, candidate.model, _denied(denial, candidate))
        for denial in denials
        for candidate in (named[denial.position],)
    )
