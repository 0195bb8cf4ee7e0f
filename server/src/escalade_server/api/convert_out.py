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
from escalade_server.api.mends import mended
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
from escalade_server.core.gates import Gate
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
    Assessment,
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
GATES: Mapping[Gate, completion_pb2.Gate.ValueType] = {
    Gate.EMPTY: completion_pb2.GATE_EMPTY,
    Gate.TRUNCATED: completion_pb2.GATE_TRUNCATED,
    Gate.REFUSAL: completion_pb2.GATE_REFUSAL,
    Gate.INVALID_JSON: completion_pb2.GATE_INVALID_JSON,
    Gate.JSON_SCHEMA: completion_pb2.GATE_SCHEMA_VIOLATION,
    Gate.TOOL_CALL: completion_pb2.GATE_TOOL_CALL_INVALID,
    Gate.TOO_SHORT: completion_pb2.GATE_TOO_SHORT,
    Gate.PATTERN: completion_pb2.GATE_PATTERN_MISSING,
}
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


def _put_time(wire: timestamp_pb2.Timestamp, instant_ms: int) -> None:
    wire.seconds, rest_ms = divmod(instant_ms, 1_000)
    wire.nanos = rest_ms * 1_000_000


def _put_model(wire: escalation_pb2.ModelRef, model: Model) -> None:
    wire.layer = model.layer
    wire.provider = model.provider
    wire.account = model.account
    wire.model = model.id


def model_to_proto(model: Model) -> escalation_pb2.ModelRef:
    """Name a model."""
    wire = escalation_pb2.ModelRef()
    _put_model(wire, model)
    return wire


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


def _put_skip(wire: escalation_pb2.Skip, skip: Skip) -> None:
    verdict, model, target = skip.verdict, skip.model, wire.target
    if model is None:
        target.layer = skip.layer
    else:
        _put_model(target, model)
    wire.verdict = VERDICTS[verdict.cls]
    wire.reason = reason_word(verdict.cause)
    wire.detail = wire_text(verdict.detail)
    if verdict.until_ms is not None and verdict.until_ms < NEVER_MS:
        _put_time(wire.until, verdict.until_ms)


def _put_usage(wire: completion_pb2.Usage, usage: Usage) -> None:
    """Count tokens; parts that nobody reported are absent."""
    wire.input_tokens = usage.input_tokens
    wire.output_tokens = usage.output_tokens
    if usage.cached_tokens:
        wire.cached_input_tokens = usage.cached_tokens
    if usage.cache_write_tokens:
        wire.cache_write_tokens = usage.cache_write_tokens
    if usage.reasoning_tokens:
        wire.reasoning_tokens = usage.reasoning_tokens


def _put_cost(wire: completion_pb2.Cost, list_nanos: int, charged_nanos: int) -> None:
    wire.list_nano_usd = list_nanos
    wire.charged_nano_usd = charged_nanos


def _failure_class(record: AttemptRecord) -> error_pb2.FailureClass.ValueType:
    """Class the failure of an attempt: of an answer that was rejected it is GATE."""
    if record.status is AttemptStatus.REJECTED:
        return error_pb2.FAILURE_CLASS_GATE
    if record.failure is None:
        return error_pb2.FAILURE_CLASS_UNSPECIFIED
    return FAILURES[record.failure]


def put_attempt(wire: escalation_pb2.Attempt, record: AttemptRecord) -> None:
    """Write one attempt."""
    wire.attempt = record.number
    _put_model(wire.target, record.model)
    wire.status = ATTEMPTS[record.status]
    wire.failure_class = _failure_class(record)
    if record.gate is not None:
        wire.gate = GATES[record.gate]
    wire.detail = wire_text(record.detail)
    if record.http_status:
        wire.http_status = record.http_status
    _put_time(wire.started, record.started_ms)
    if record.first_delta_ms:
        _put_time(wire.first_token, record.first_delta_ms)
    _put_time(wire.ended, record.ended_ms)
    if record.finish is not None:
        wire.finish_reason = FINISHES[record.finish]
    wire.reported_model = wire_text(record.reported_model)
    _put_usage(wire.usage, record.usage)
    _put_cost(wire.cost, record.list_nanos, record.charged_nanos)
    wire.basis = BASES[record.basis]
    wire.reservation_id = record.reservation_id


def put_report(wire: escalation_pb2.Report, report: Report) -> None:
    """Write the whole record of a task."""
    wire.request_id = report.request_id
    wire.requested_model = report.requested_model
    if report.selected is not None:
        _put_model(wire.selected, report.selected)
    if report.answered is not None:
        _put_model(wire.answered, report.answered)
    wire.layer_path.extend(report.layer_path)
    _put_usage(wire.usage, report.usage)
    _put_cost(wire.cost, report.list_nanos, report.charged_nanos)
    wire.baseline_model = report.baseline_model
    wire.baseline_nano_usd = report.baseline_nanos or 0
    weakest = BASES[Basis.NONE]
    for record in report.attempts:
        put_attempt(wire.attempts.add(), record)
        weakest = max(weakest, BASES[record.basis])
    wire.basis = weakest
    for room in report.headroom:
        quota = quota_to_proto(room.counter, room.spent, room.held, room.resets_ms)
        wire.headroom.append(quota)
    if report.earliest_ms is not None and report.earliest_ms < NEVER_MS:
        _put_time(wire.earliest, report.earliest_ms)
    for skip in report.skips:
        _put_skip(wire.skips.add(), skip)
    if report.waited_ms:
        wire.waited.FromMilliseconds(report.waited_ms)
    wire.story = wire_text(report.story)
    _put_time(wire.started, report.started_ms)
    _put_time(wire.ended, report.ended_ms)


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


def _put_assessed(wire: escalation_pb2.Assessed, made: Assessment) -> None:
    wire.score = made.score_micro / MICRO
    parts = wire.parts
    parts.files = made.files_micro / MICRO
    parts.depth = made.depth_micro / MICRO
    parts.context = made.context_micro / MICRO
    if made.threshold_micro is not None:
        wire.threshold = made.threshold_micro / MICRO
    wire.task_type = made.type
    wire.complexity_stated = made.stated
    if made.estimated:
        estimated = dict(made.estimated)
        wire.complexity_estimated = not made.stated
        wire.type_estimated = "type" in estimated
        wire.tokens_estimated = "tokens" in estimated
        wire.estimate_reason = wire_text("; ".join(f"{k}: {why}" for k, why in made.estimated))
    wire.target_layer = made.target_layer
    wire.start_layer = made.start_layer
    if made.clamped_by is not None:
        wire.clamped_by = CLAMPS[made.clamped_by]
    if made.session_note:
        wire.raised_by = made.raised_by
        wire.session_note = made.session_note


def _put_selected(wire: escalation_pb2.Selected, fact: Selected) -> None:
    model = fact.model
    wire.attempt = fact.attempt
    _put_model(wire.target, model)
    wire.wire_model = model.wire_id
    wire.dialect = model.dialect
    wire.reservation_id = fact.reservation_id
    if fact.expires_ms:
        _put_time(wire.expires, fact.expires_ms)
    wire.max_input_tokens = fact.input_tokens_max
    wire.max_output_tokens = fact.output_tokens_max
    for gate in fact.held_by:
        wire.held_by.append(GATES[gate])
    for skip in fact.skips:
        _put_skip(wire.skips.add(), skip)


def _put_finished(wire: escalation_pb2.Finished, fact: Finished, *, whole: bool) -> None:
    answer = fact.answer
    wire.finish_reason = FINISHES[answer.finish]
    wire.finish_detail = wire_text(answer.finish_detail)
    if whole or fact.replayed:
        wire.replayed = fact.replayed
        message = wire.answer
        message.role = completion_pb2.ROLE_ASSISTANT
        message.parts.extend([part_to_proto(part) for part in answer.parts])
    met = fact.unmet is None
    wire.quality = escalation_pb2.QUALITY_MET if met else escalation_pb2.QUALITY_UNMET
    put_report(wire.report, fact.report)


def _put_failed(wire: escalation_pb2.Failed, fact: Failed) -> None:
    wire.reason = ERROR_REASONS[fact.reason]
    said = BUG_MESSAGE if fact.reason is ErrorReason.BUG else wire_text(fact.detail)
    wire.message = mended(wire.reason, said)
    for record in fact.report.attempts:
        wire.failure_class = _failure_class(record) or wire.failure_class  # the last one stands
    put_report(wire.report, fact.report)


def _put_escalated(wire: escalation_pb2.Escalated, fact: Escalated) -> None:
    wire.from_layer = fact.from_layer
    wire.to_layer = fact.to_layer
    wire.reason = ESCALATION_REASONS[fact.reason]
    wire.detail = wire_text(fact.detail)
    wire.kind = ESCALATION_KINDS[fact.kind]
    if fact.failed_attempt is not None:
        wire.failed_attempt = fact.failed_attempt


def _put_waiting(wire: escalation_pb2.Waiting, fact: Waiting) -> None:
    wire.reason = VERDICTS[fact.reason]
    wire.detail = wire_text(fact.detail)
    if fact.earliest_ms < NEVER_MS:
        _put_time(wire.earliest, fact.earliest_ms)
    wire.rule = wire_text(fact.rule)
    wire.position = fact.position
    wire.resume_token = fact.resume_token


def put_event(
    wire: escalation_pb2.Event,
    sequence: int,
    fact: Fact | Outcome,
    *,
    whole: bool,
    trace_id: str = "",
) -> None:
    """Write a fact or the ending; the answer travels with the ending in ``whole`` delivery.

    Messages are filled where they stand: making and copying each costs three times as much.
    """
    wire.sequence = sequence
    match fact:
        case Assessed(assessment=made):
            _put_assessed(wire.assessed, made)
        case Selected():
            _put_selected(wire.selected, fact)
        case Finished():
            _put_finished(wire.finished, fact, whole=whole)
            wire.finished.report.trace_id = trace_id
        case Failed():
            _put_failed(wire.failed, fact)
            wire.failed.report.trace_id = trace_id
        case Escalated():
            _put_escalated(wire.escalated, fact)
        case Fallback():
            fallback = wire.fallback
            fallback.failed_attempt = fact.attempt
            _put_model(fallback.from_target, fact.from_model)
            _put_model(fallback.to_target, fact.to_model)
            fallback.failure_class = FAILURES[fact.cls]
            fallback.detail = wire_text(fact.detail)
        case Waiting():
            _put_waiting(wire.waiting, fact)
        case Retracted():
            wire.retracted.attempt = fact.attempt
            wire.retracted.reason = FAILURES[fact.cls]
            wire.retracted.detail = wire_text(fact.detail)
        case Alert():
            wire.alert.kind = ALERTS[fact.kind]
            wire.alert.detail = wire_text(fact.detail)
            if fact.model is not None:
                _put_model(wire.alert.target, fact.model)
        case _:
            assert_never(fact)
