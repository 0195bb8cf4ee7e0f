"""How a task ends: its report, the sentence for people, and why there is no answer."""

from dataclasses import dataclass, replace

from escalade_server.core import story, words
from escalade_server.core.attempt import Live
from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import Candidate
from escalade_server.core.diary import Diary
from escalade_server.core.events import Repeated
from escalade_server.core.experience import class_of
from escalade_server.core.facts import ErrorReason, Failed, Finished
from escalade_server.core.failure import NEVER_MS, Failure
from escalade_server.core.money import cost_nanos
from escalade_server.core.standing import Balance, Cause, Standing, VerdictClass
from escalade_server.core.survey import effective
from escalade_server.core.task import Request, Usage
from escalade_server.core.trace import (
    Assessment,
    AttemptStatus,
    Headroom,
    Report,
    Skip,
    figures,
)


@dataclass(frozen=True, slots=True)
class NoWay:
    """Why the walk found nothing: the reason, in words, and when trying again can succeed."""

    reason: ErrorReason
    detail: str
    retry_at_ms: int | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    before: Repeated | None = None
    """The request id was answered before; the report has those figures (R27)."""
    first: Skip | None = None
    """What opens at ``retry_at_ms``."""

    @property
    def rule(self) -> str:
        """Name what has to open first."""
        return _line(self.first) if self.first else ""


_OK, _EMPTY = AttemptStatus.OK, Balance("", 0, 0, 0)
_SPENT = {VerdictClass.RATE, VerdictClass.MONEY}
_SHUT = (VerdictClass.POLICY, VerdictClass.UNFIT, VerdictClass.REJECTED)


def no_way(diary: Diary, untriggered: str, cut: Failure | None, now_ms: int) -> NoWay:
    """Say why no model is left; after a cut, that is the cut's error (R23)."""
    why = _no_way(diary, untriggered, now_ms)
    if cut is None:
        return why
    detail = f"{cut.detail}, and no other model could start over: {why.detail}"
    return NoWay(ErrorReason.INTERRUPTED, detail, why.retry_at_ms, why.metadata)


def _no_way(diary: Diary, untriggered: str, now_ms: int) -> NoWay:
    """Read it from the last verdicts of all models (DESIGN 6, R28)."""
    last = [s for s in diary.skips.values() if s.model is not None]
    open_to = [s for s in last if s.verdict.cls not in _SHUT]
    opens = [
        (s.verdict.until_ms, s)
        for s in open_to
        if s.verdict.until_ms is not None and now_ms < s.verdict.until_ms < NEVER_MS
    ]
    retry_at, first = min(opens, key=lambda one: one[0], default=(None, None))
    consent = [s for s in last if s.verdict.cause is Cause.CONSENT and _callable(s)]
    rejected = any(s.verdict.cls is VerdictClass.REJECTED for s in last)
    tried = [a for a in diary.attempts if a.status is not AttemptStatus.OK]
    failed_here = {class_of(a.failure) for a in tried if a.failure}
    classes = {effective(s.verdict) for s in open_to} | failed_here
    agree, metadata = _consent(diary, consent)
    why = "; ".join([_line(s) for s in last[:8]] + [agree] * bool(agree))
    metadata += tuple((f"{s.layer}/{s.model.id}", s.verdict.cause.value) for s in last if s.model)
    if consent and retry_at is None:
        reason = ErrorReason.CONSENT_REQUIRED
        detail = f"no other layer is left: {agree}"
    elif consent and classes & _SPENT and not rejected:
        reason = ErrorReason.RATE_LIMITED
        if VerdictClass.RATE not in classes:
            reason = ErrorReason.BUDGET_EXHAUSTED
        detail = f"no layer is left before a quota reopens, or you consent: {why}"
    elif untriggered:
        reason, detail = ErrorReason.TRIGGER_NOT_MET, untriggered
    elif rejected:
        reason, detail = ErrorReason.QUALITY_NOT_MET, f"no answer passed its gate: {why}"
    elif not tried and all(s.verdict.until_ms == NEVER_MS for s in open_to):
        reason, detail = ErrorReason.NO_ELIGIBLE_MODEL, f"no model can take this task: {why}"
    elif VerdictClass.DOWN in failed_here:
        reason, detail = ErrorReason.ALL_MODELS_FAILED, f"every model failed: {why}"
    elif VerdictClass.RATE in classes:
        reason, detail = ErrorReason.RATE_LIMITED, f"every layer is exhausted: {why}"
    elif VerdictClass.MONEY in classes or VerdictClass.HELD in classes:
        reason, detail = ErrorReason.BUDGET_EXHAUSTED, f"no budget is left: {why}"
    else:
        reason, detail = ErrorReason.ALL_MODELS_FAILED, f"no model is reachable: {why}"
    return NoWay(reason, detail, retry_at, metadata, first=first)


def _consent(diary: Diary, missing: list[Skip]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Say which layer only the caller's consent opens, and what a call there may cost (R28)."""
    if not missing:
        return "", ()
    models = [s.model for s in missing if s.model and s.layer == missing[0].layer]
    most = max(diary.look.need.candidate(model, None).nanos for model in models)
    layer = missing[0].layer
    facts = (("consent_layer", layer), ("worst_case_nano_usd", str(most)))
    return f"{layer} needs consent, a call there may cost {words.usd(most)}", facts


def _callable(skip: Skip) -> bool:
    return skip.model is not None and skip.model.absence is None


def _line(skip: Skip) -> str:
    name = words.name(skip.model) if skip.model else skip.layer
    return f"{name}: {skip.verdict.detail}" if skip.verdict.detail else name


def headroom(candidate: Candidate, standing: Standing, now_ms: int) -> tuple[Headroom, ...]:
    """Room left in every counter that the answering call touched."""
    rows = []
    for counter in candidate.counters:
        balance = standing.balances.get(counter.key)
        _, spent, held, ends_ms = balance or _EMPTY
        live = ends_ms > now_ms
        rows.append(Headroom(counter, spent, held, ends_ms) if live else Headroom(counter, 0, 0, 0))
    return tuple(rows)


def finished(diary: Diary, final: Live, standing: Standing, now_ms: int) -> Finished:
    """End well: the answer of ``final``, with the room that is left after it."""
    room = headroom(final.candidate, standing, now_ms)
    unmet = diary.stand_in.gate if diary.stand_in is not None else None
    return Finished(report(diary, now_ms, room=room), final.answer, unmet=unmet)


def failed(diary: Diary, why: NoWay, now_ms: int) -> Failed:
    """End without an answer, with the precise reason and the instant to come back."""
    told = report(diary, now_ms, earliest_ms=why.retry_at_ms, failed=why.detail)
    if why.before is not None:
        told = _as_before(told, why.before, diary.catalog)
    return Failed(why.reason, why.detail, told, why.retry_at_ms, why.metadata)


def _as_before(told: Report, before: Repeated, catalog: Catalog) -> Report:
    """Give a repeated request the figures of its answer; nothing new is charged (R27)."""
    spent = before.figures
    if spent is None:
        return told
    model = next((each for each in catalog.models if each.key == before.model_key), None)
    return replace(
        told,
        selected=model, answered=model, usage=spent.usage, list_nanos=spent.list_nanos,
        charged_nanos=spent.charged_nanos, started_ms=spent.started_ms, ended_ms=spent.ended_ms,
    )  # fmt: skip


OTHER_CONTENT = NoWay(
    ErrorReason.REQUEST_INVALID,
    "request_id was used for another request in the last 24 hours; a new request needs a new id",
    metadata=(("field", "request_id"),),
)
IN_PROGRESS = NoWay(
    ErrorReason.REQUEST_IN_PROGRESS,
    "the first call with this request_id still runs; the same call gets its answer when it is done",
)


def repeated(before: Repeated) -> NoWay:
    """Say why a request id is not run again (R27)."""
    spent = before.figures
    if spent is None:
        return IN_PROGRESS if before.runs else OTHER_CONTENT
    told = (
        ("model", before.model_key),
        ("input_tokens", str(spent.usage.input_tokens)),
        ("output_tokens", str(spent.usage.output_tokens)),
        ("charged_nano_usd", str(spent.charged_nanos)),
        ("list_nano_usd", str(spent.list_nanos)),
        ("answered_ms", str(spent.ended_ms)),
    )
    detail = (
        f"this request_id was answered by {before.model_key} and charged"
        f" {words.usd(spent.charged_nanos)}; the answer is not kept, and nothing was done anew"
    )
    return NoWay(ErrorReason.ALREADY_ANSWERED, detail, None, told, before)


def instead(failed: Failed, before: Repeated, catalog: Catalog) -> Failed:
    """End as a repeated request does, where nothing could have been reserved anyway (R27)."""
    why, told = repeated(before), _as_before(failed.report, before, catalog)
    return Failed(why.reason, why.detail, told, why.retry_at_ms, why.metadata)


def unstarted(request: Request, why: NoWay, now_ms: int) -> Failed:
    """End a task of which nothing was done, or of whose state nothing is believed."""
    nothing = Assessment(0, 0, 0, 0, 0, None, stated=False, type="", estimated=(),
                         target_layer="", start_layer="")  # fmt: skip
    told = Report(
        request_id=request.id, assessment=nothing, requested_model="", selected=None,
        answered=None, layer_path=(), attempts=(), skips=(), usage=Usage(), list_nanos=0,
        charged_nanos=0, baseline_model="", baseline_nanos=None, started_ms=now_ms,
        ended_ms=now_ms, story=why.detail,
    )  # fmt: skip
    return Failed(why.reason, why.detail, told, why.retry_at_ms, why.metadata)


def mistaken(request: Request, mistake_id: str, now_ms: int) -> Failed:
    """End for a mistake of ours (P5)."""
    detail = "the service made a mistake; every call was booked at its reserve"
    why = NoWay(ErrorReason.BUG, detail, metadata=(("id", mistake_id),))
    return unstarted(request, why, now_ms)


def report(
    diary: Diary,
    now_ms: int,
    *,
    room: tuple[Headroom, ...] = (),
    earliest_ms: int | None = None,
    failed: str = "",
) -> Report:
    """Put the whole record together; ``failed`` says in words why there is no answer."""
    diary.go_on(now_ms)
    request, attempts = diary.request, diary.attempts
    good = [a for a in attempts if a.status is _OK]
    winner = good[-1] if good else diary.stand_in
    sole = len(attempts) == 1
    total = attempts[0] if sole else figures(attempts, diary.started_ms, now_ms)
    baseline, instead = diary.catalog.baseline, None
    if baseline is not None and winner is not None:
        instead = cost_nanos(winner.usage, baseline.price)
    allowed = request.constraints.allowed_models
    return Report(  # by place: names cost as much as all the rest of it
        request.id,
        diary.look.assessment,
        allowed[0] if len(allowed) == 1 else "",
        attempts[-1].model if attempts else None,
        winner.model if winner else None,
        tuple(diary.layer_path),
        tuple(attempts),
        tuple(diary.skips.values()),
        total.usage,
        total.list_nanos,
        total.charged_nanos,
        baseline.id if baseline else "",
        instead,
        diary.started_ms,
        now_ms,
        story.tell(diary, winner, instead, now_ms, failed),
        room,
        earliest_ms,
        diary.waited_ms,
    )
