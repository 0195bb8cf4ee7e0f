"""From the core's facts, outcomes and deltas to ``escalade.v1``. Total: a test holds every enum."""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeVar, assert_never

from google.protobuf import timestamp_pb2

from escalade.v1 import (
    completion_pb2,
    error_pb2,
    escalation_pb2,
    operations_service_pb2,
)
from escalade_server.core.catalog import Billing, Counter, Model, Period, Unit
from escalade_server.core.facts import (
    Alert,
    AlertKind,
    Assessed,
    ErrorReason,
    Escalated,
    EscalationKind,
    EscalationReason,
    Fact,
    Failed,
    Fallback,
    Finished,
    Outcome,
    Retracted,
    Selected,
    Waiting,
)
from escalade_server.core.failure import NEVER_MS, FailureClass
from escalade_server.core.standing import Cause, CircuitState, VerdictClass
from escalade_server.core.task import (
    MICRO,
    Basis,
    FinishReason,
    Image,
    Part,
    ProviderState,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from escalade_server.core.trace import (
    Answer,
    AttemptRecord,
    AttemptStatus,
    Clamp,
    Report,
    Skip,
)

_E = TypeVar("_E", bound=Enum)
_V = TypeVar("_V", bound=int)


def _by_name(members: type[_E], value: Callable[[str], _V], prefix: str) -> Mapping[_E, _V]:
    """Map members to wire values of the same name; a name that the wire lacks fails at import."""
    return {member: value(f"{prefix}_{member.name}") for member in members}


_V1 = escalation_pb2
FAILURES = _by_name(FailureClass, error_pb2.FailureClass.Value, "FAILURE_CLASS")
ERROR_REASONS = _by_name(ErrorReason, error_pb2.ErrorReason.Value, "ERROR_REASON")
ESCALATION_REASONS = _by_name(EscalationReason, _V1.EscalationReason.Value, "ESCALATION_REASON")
ESCALATION_KINDS = _by_name(EscalationKind, _V1.EscalationKind.Value, "ESCALATION_KIND")
ALERTS = _by_name(AlertKind, _V1.AlertKind.Value, "ALERT_KIND")
ATTEMPTS = _by_name(AttemptStatus, _V1.AttemptStatus.Value, "ATTEMPT_STATUS")
CLAMPS = _by_name(Clamp, _V1.StartClamp.Value, "START_CLAMP")
FINISHES = _by_name(FinishReason, completion_pb2.FinishReason.Value, "FINISH_REASON")
BILLINGS = _by_name(Billing, operations_service_pb2.Billing.Value, "BILLING")
CIRCUITS = _by_name(CircuitState, operations_service_pb2.CircuitState.Value, "CIRCUIT_STATE")
VERDICTS: Mapping[VerdictClass, _V1.VerdictClass.ValueType] = {
    VerdictClass.OK: _V1.VERDICT_CLASS_OK,
    VerdictClass.RATE: _V1.VERDICT_CLASS_RATE,
    VerdictClass.MONEY: _V1.VERDICT_CLASS_MONEY,
    VerdictClass.DOWN: _V1.VERDICT_CLASS_DOWN,
    VerdictClass.UNFIT: _V1.VERDICT_CLASS_UNFIT,
    VerdictClass.POLICY: _V1.VERDICT_CLASS_POLICY,
    VerdictClass.HELD: _V1.VERDICT_CLASS_HELD,
    VerdictClass.REJECTED: _V1.VERDICT_CLASS_REJECTED,
    VerdictClass.TRIED: _V1.VERDICT_CLASS_TRIED,
    VerdictClass.TRIGGER_NOT_MET: _V1.VERDICT_CLASS_POLICY,
}
BASES: Mapping[Basis, completion_pb2.Basis.ValueType] = {
    Basis.NONE: completion_pb2.BASIS_UNSPECIFIED,
    Basis.REPORTED: completion_pb2.BASIS_REPORTED,
    Basis.ESTIMATED: completion_pb2.BASIS_ESTIMATED,
    Basis.RESERVED: completion_pb2.BASIS_RESERVED,
}
UNITS: Mapping[Unit, _V1.QuotaUnit.ValueType] = {
    Unit.REQUESTS: _V1.QUOTA_UNIT_REQUESTS,
    Unit.TOKENS: _V1.QUOTA_UNIT_TOKENS,
    Unit.NANOS: _V1.QUOTA_UNIT_NANO_USD,
}
NO_FAILURE = error_pb2.FAILURE_CLASS_UNSPECIFIED
NO_FINISH = completion_pb2.FINISH_REASON_UNSPECIFIED
NO_CLAMP = escalation_pb2.START_CLAMP_UNSPECIFIED

BUG_MESSAGE = "the service made a mistake; quote the id when you report it"
"""All that a caller is told of a mistake of ours (P5, D8)."""

_SLIDING = frozenset({Period.SECOND, Period.MINUTE, Period.HOUR})


def wire_text(text: str) -> str:
    """Make text fit for a proto string: halves of a surrogate pair are joined or replaced (C8)."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def time_to_proto(instant_ms: int | None) -> timestamp_pb2.Timestamp | None:
    """Write an instant; None, 0 and never are absent."""
    if not instant_ms or instant_ms >= NEVER_MS:
        return None
    seconds, rest_ms = divmod(instant_ms, 1_000)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest_ms * 1_000_000)


def model_to_proto(model: Model) -> escalation_pb2.ModelRef:
    """Name a model."""
    return escalation_pb2.ModelRef(
        layer=model.layer, provider=model.provider, account=model.account, model=model.id
    )


def quota_to_proto(counter: Counter, spent: int, held: int, ends_ms: int) -> escalation_pb2.Quota:
    """Write one counter with its use."""
    return escalation_pb2.Quota(
        name=counter.label or counter.key,
        scope=counter.scope.value,
        unit=UNITS[counter.unit],
        period=counter.period.value,
        limit=counter.limit,
        spent=spent,
        held=held,
        resets=None if counter.period in _SLIDING else time_to_proto(ends_ms),
    )


def reason_word(cause: Cause) -> str:
    """Write a cause as its stable word; nothing for none."""
    return "" if cause is Cause.NONE else cause.value


def _skip(skip: Skip) -> escalation_pb2.Skip:
    verdict, model = skip.verdict, skip.model
    target = escalation_pb2.ModelRef(layer=skip.layer) if model is None else model_to_proto(model)
    return escalation_pb2.Skip(
        target=target,
        verdict=VERDICTS[verdict.cls],
        reason=reason_word(verdict.cause),
        detail=wire_text(verdict.detail),
        until=time_to_proto(verdict.until_ms),
    )


def usage_to_proto(usage: Usage) -> completion_pb2.Usage:
    """Count tokens; parts that nobody reported are absent."""
    return completion_pb2.Usage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_tokens or None,
        cache_write_tokens=usage.cache_write_tokens or None,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens or None,
    )


def _attempt(record: AttemptRecord) -> escalation_pb2.Attempt:
    failure, finish = record.failure, record.finish
    return escalation_pb2.Attempt(
        attempt=record.number,
        target=model_to_proto(record.model),
        status=ATTEMPTS[record.status],
        failure_class=NO_FAILURE if failure is None else FAILURES[failure],
        detail=wire_text(record.detail),
        http_status=record.http_status or None,
        started=time_to_proto(record.started_ms),
        first_token=time_to_proto(record.first_delta_ms),
        ended=time_to_proto(record.ended_ms),
        finish_reason=NO_FINISH if finish is None else FINISHES[finish],
        reported_model=wire_text(record.reported_model),
        usage=usage_to_proto(record.usage),
        cost=completion_pb2.Cost(
            list_nano_usd=record.list_nanos, charged_nano_usd=record.charged_nanos
        ),
        basis=BASES[record.basis],
        reservation_id=record.reservation_id,
    )


def report_to_proto(report: Report) -> escalation_pb2.Report:
    """Write the whole record of a task."""
    weakest = max((BASES[r.basis] for r in report.attempts), default=BASES[Basis.NONE])
    selected, answered = report.selected, report.answered
    return escalation_pb2.Report(
        request_id=report.request_id,
        requested_model=report.requested_model,
        selected=None if selected is None else model_to_proto(selected),
        answered=None if answered is None else model_to_proto(answered),
        layer_path=report.layer_path,
        usage=usage_to_proto(report.usage),
        cost=completion_pb2.Cost(
            list_nano_usd=report.list_nanos, charged_nano_usd=report.charged_nanos
        ),
        basis=weakest,
        baseline_model=report.baseline_model,
        baseline_nano_usd=report.baseline_nanos or 0,
        headroom=[
            quota_to_proto(room.counter, room.spent, room.held, room.resets_ms)
            for room in report.headroom
        ],
        earliest=time_to_proto(report.earliest_ms),
        attempts=[_attempt(record) for record in report.attempts],
        skips=[_skip(skip) for skip in report.skips],
        story=wire_text(report.story),
        started=time_to_proto(report.started_ms),
        ended=time_to_proto(report.ended_ms),
    )


def part_to_proto(part: Part) -> completion_pb2.Part:
    """Write one piece of an answer."""
    match part:
        case Text(text=text):
            return completion_pb2.Part(text=wire_text(text))
        case ToolCall(id=call_id, name=name, arguments_json=arguments):
            call = completion_pb2.ToolCall(
                id=wire_text(call_id), name=wire_text(name), arguments_json=wire_text(arguments)
            )
            return completion_pb2.Part(tool_call=call)
        case Reasoning(text=text):
            return completion_pb2.Part(reasoning=completion_pb2.Reasoning(text=wire_text(text)))
        case ProviderState():
            return completion_pb2.Part(provider_state=state_to_proto(part))
        case Image(media_type=media_type, data=data):
            return completion_pb2.Part(image=completion_pb2.Image(media_type=media_type, data=data))
        case ToolResult(call_id=call_id, text=text, is_error=is_error):
            result = completion_pb2.ToolResult(
                tool_call_id=wire_text(call_id), text=wire_text(text), is_error=is_error
            )
            return completion_pb2.Part(tool_result=result)
        case _:
            assert_never(part)


def state_to_proto(state: ProviderState) -> completion_pb2.ProviderState:
    """Write opaque vendor state."""
    return completion_pb2.ProviderState(dialect=state.dialect, model=state.model, data=state.data)


def _answer(answer: Answer) -> completion_pb2.Message:
    return completion_pb2.Message(
        role=completion_pb2.ROLE_ASSISTANT, parts=[part_to_proto(part) for part in answer.parts]
    )


def _assessed(fact: Assessed) -> escalation_pb2.Assessed:
    made = fact.assessment
    estimated = dict(made.estimated)
    threshold, clamp = made.threshold_micro, made.clamped_by
    return escalation_pb2.Assessed(
        score=made.score_micro / MICRO,
        parts=escalation_pb2.ScoreParts(
            files=made.files_micro / MICRO,
            depth=made.depth_micro / MICRO,
            context=made.context_micro / MICRO,
        ),
        threshold=None if threshold is None else threshold / MICRO,
        task_type=made.type,
        complexity_stated=made.stated,
        complexity_estimated=bool(estimated) and not made.stated,
        type_estimated="type" in estimated,
        tokens_estimated="tokens" in estimated,
        estimate_reason=wire_text("; ".join(f"{k}: {why}" for k, why in made.estimated)),
        target_layer=made.target_layer,
        start_layer=made.start_layer,
        clamped_by=NO_CLAMP if clamp is None else CLAMPS[clamp],
    )


def _selected(fact: Selected) -> escalation_pb2.Selected:
    return escalation_pb2.Selected(
        attempt=fact.attempt,
        target=model_to_proto(fact.model),
        wire_model=fact.model.wire_id,
        dialect=fact.model.dialect,
        reservation_id=fact.reservation_id,
        expires=time_to_proto(fact.expires_ms),
        max_input_tokens=fact.input_tokens_max,
        max_output_tokens=fact.output_tokens_max,
        skips=[_skip(skip) for skip in fact.skips],
    )


def _failed(fact: Failed) -> escalation_pb2.Failed:
    failures = [r.failure for r in fact.report.attempts if r.failure is not None]
    return escalation_pb2.Failed(
        reason=ERROR_REASONS[fact.reason],
        message=BUG_MESSAGE if fact.reason is ErrorReason.BUG else wire_text(fact.detail),
        failure_class=FAILURES[failures[-1]] if failures else NO_FAILURE,
        report=report_to_proto(fact.report),
    )


def event_to_proto(sequence: int, fact: Fact | Outcome, *, whole: bool) -> escalation_pb2.Event:
    """Write a fact or the ending; the answer travels with the ending in ``whole`` delivery."""
    event = escalation_pb2.Event
    match fact:
        case Assessed():
            return event(sequence=sequence, assessed=_assessed(fact))
        case Selected():
            return event(sequence=sequence, selected=_selected(fact))
        case Finished(report=report, answer=answer):
            finished = escalation_pb2.Finished(
                finish_reason=FINISHES[answer.finish],
                finish_detail=wire_text(answer.finish_detail),
                answer=_answer(answer) if whole else None,
                quality=escalation_pb2.QUALITY_MET,
                report=report_to_proto(report),
            )
            return event(sequence=sequence, finished=finished)
        case Failed():
            return event(sequence=sequence, failed=_failed(fact))
        case Escalated():
            escalated = escalation_pb2.Escalated(
                from_layer=fact.from_layer,
                to_layer=fact.to_layer,
                reason=ESCALATION_REASONS[fact.reason],
                detail=wire_text(fact.detail),
                kind=ESCALATION_KINDS[fact.kind],
                failed_attempt=fact.failed_attempt,
            )
            return event(sequence=sequence, escalated=escalated)
        case Fallback():
            fallback = escalation_pb2.Fallback(
                failed_attempt=fact.attempt,
                from_target=model_to_proto(fact.from_model),
                to_target=model_to_proto(fact.to_model),
                failure_class=FAILURES[fact.cls],
                detail=wire_text(fact.detail),
            )
            return event(sequence=sequence, fallback=fallback)
        case Waiting():
            waiting = escalation_pb2.Waiting(
                reason=VERDICTS[fact.reason],
                detail=wire_text(fact.detail),
                earliest=time_to_proto(fact.earliest_ms),
                rule=wire_text(fact.rule),
                position=fact.position,
            )
            return event(sequence=sequence, waiting=waiting)
        case Retracted():
            retracted = escalation_pb2.Retracted(
                attempt=fact.attempt, reason=FAILURES[fact.cls], detail=wire_text(fact.detail)
            )
            return event(sequence=sequence, retracted=retracted)
        case Alert():
            alert = escalation_pb2.Alert(
                kind=ALERTS[fact.kind],
                target=None if fact.model is None else model_to_proto(fact.model),
                detail=wire_text(fact.detail),
            )
            return event(sequence=sequence, alert=alert)
        case _:
            assert_never(fact)
