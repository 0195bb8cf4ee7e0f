"""What a caller of Route says, turned into the wire's messages; and the plan it may ask for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

from escalade._convert import (
    constraints_to_proto,
    conversation_of,
    message_to_proto,
    task_to_proto,
    value_of,
)
from escalade._errors import UsageError
from escalade._events import Answer, Assessed
from escalade._failure import (
    BODY_BYTES_MAX,
    FailureClass,
    FailureEvidence,
    Transport,
    allowed_headers,
    answer_in,
    evidence_of,
    was_kept_back,
)
from escalade._proto import instant_of, name_of, one_line, usd_of
from escalade._record import Model, Usage, model_from_proto
from escalade._types import Constraints, Gate, Messages, Task
from escalade._usage import Finish, reading_of
from escalade.v1 import completion_pb2, error_pb2, escalation_pb2, router_service_pb2

Feature = Literal["tools", "images", "json_schema"]
DETAIL_CHARS_MAX = 256

_R = router_service_pb2
TRANSPORTS: Mapping[Transport, router_service_pb2.TransportFailure.ValueType] = MappingProxyType(
    {
        "connect": _R.TRANSPORT_FAILURE_CONNECT,
        "reset": _R.TRANSPORT_FAILURE_RESET,
        "timeout": _R.TRANSPORT_FAILURE_TIMEOUT,
        "dns": _R.TRANSPORT_FAILURE_DNS,
        "tls": _R.TRANSPORT_FAILURE_TLS,
        "protocol": _R.TRANSPORT_FAILURE_PROTOCOL,
    }
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model of a plan, in the order in which models would be tried.

    Attributes:
        model: The model.
        verdict: OK, or the class of what is in the way, such as RATE or MONEY.
        reason: A stable word for it; empty for OK.
        detail: The same for people.
        until: When it may be used again; None means not by itself.
        worst_case_nanos: The most that the task can be worth on it at list price.
    """

    model: Model
    verdict: str
    reason: str
    detail: str
    until: datetime | None
    worst_case_nanos: int

    @property
    def worst_case_usd(self) -> Decimal:
        """The same in dollars."""
        return usd_of(self.worst_case_nanos)

    def __str__(self) -> str:
        why = ": ".join(word for word in (self.reason, one_line(self.detail)) if word)
        return f"{self.model} in {self.model.layer}: {self.verdict}" + (f" ({why})" if why else "")


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be done with a task now. Nothing is reserved, and a moment later it may differ.

    Attributes:
        assessed: How complex the task is and where it starts.
        selected: The model that would be called first; None if there is none now.
        candidates: Every model, in the order in which models would be tried.
        story: The same in one sentence.
        report: The whole record, as the wire has it.
    """

    assessed: Assessed | None
    selected: Model | None
    candidates: tuple[Candidate, ...]
    story: str
    report: escalation_pb2.Report

    @property
    def skips(self) -> tuple[Candidate, ...]:
        """The models that would be passed over."""
        return tuple(one for one in self.candidates if one.verdict != "OK")

    def __str__(self) -> str:
        return self.story


def plan_from_answer(assessed: Assessed | None, answer: Answer) -> Plan:
    """Read the end of a dry run."""
    report = answer.report
    return Plan(
        assessed,
        model_from_proto(report.selected) if report.HasField("selected") else None,
        tuple(
            Candidate(
                model_from_proto(row.target),
                name_of(escalation_pb2.VerdictClass.DESCRIPTOR, row.verdict),
                row.reason,
                row.detail,
                instant_of(row.until) if row.HasField("until") else None,
                row.worst_case_nano_usd,
            )
            for row in report.plan
        ),
        report.story,
        report,
    )


def route_to_proto(
    task: Task | str,
    *,
    messages: Messages | None,
    features: Sequence[Feature],
    input_tokens: int | None,
    max_output_tokens: int | None,
    constraints: Constraints | None,
    request_id: str,
    dry_run: bool,
) -> router_service_pb2.RouteRequest:
    """Build the first message.

    Raises:
        UsageError: Something cannot be sent.
    """
    kinds: Mapping[Feature, router_service_pb2.Feature.ValueType] = {
        "tools": _R.FEATURE_TOOLS,
        "images": _R.FEATURE_IMAGES,
        "json_schema": _R.FEATURE_JSON_SCHEMA,
    }
    if isinstance(features, str):
        raise UsageError(f"features is a list of words, not the one word {features!r}")
    try:
        made = task_to_proto(Task(task) if isinstance(task, str) else task)
        if dry_run:
            made.dry_run = True
        conversation = () if messages is None else conversation_of(messages)
        return router_service_pb2.RouteRequest(
            task=made,
            constraints=constraints_to_proto(constraints) if constraints else None,
            features=[value_of(kinds, one, "features") for one in features],
            input_tokens=input_tokens,
            max_output_tokens=max_output_tokens,
            messages=[message_to_proto(message) for message in conversation],
            request_id=request_id,
        )
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"the task cannot be sent: {error}") from error


def ok_outcome(answer: object, finish: Finish | None) -> router_service_pb2.Outcome:
    """Tell that the model answered; what is stated wins over what is read off the answer."""
    reading = reading_of(answer)
    ok = router_service_pb2.OutcomeOk(
        usage=_usage(reading.usage),
        finish_reason=completion_pb2.FinishReason.Value(
            f"FINISH_REASON_{_upper(finish or reading.finish)}"
        ),
        reported_model=reading.model,
    )
    return router_service_pb2.Outcome(ok=ok)


def rejected_outcome(gate: Gate | None, answer: object, detail: str) -> router_service_pb2.Outcome:
    """Tell that the answer is not good enough."""
    rejected = router_service_pb2.OutcomeRejected(
        gate=completion_pb2.Gate.Value(f"GATE_{_upper(gate)}"),
        usage=_usage(reading_of(answer).usage),
        detail=one_line(detail)[:DETAIL_CHARS_MAX],
    )
    return router_service_pb2.Outcome(rejected=rejected)


def failed_outcome(
    cause: FailureClass | FailureEvidence | BaseException, answer: object = None
) -> router_service_pb2.Outcome:
    """Tell that the call failed; an exception that nobody knows is a call that was broken off."""
    usage = _usage(reading_of(answer).usage)
    if isinstance(cause, BaseException):
        cause = evidence_of(cause) or "CANCELLED"
    if isinstance(cause, FailureEvidence):
        failed = router_service_pb2.OutcomeFailed(failure_evidence=_evidence(cause), usage=usage)
    else:
        cls = error_pb2.FailureClass.Value(f"FAILURE_CLASS_{_upper(cause)}")
        failed = router_service_pb2.OutcomeFailed(failure_class=cls, usage=usage)
    return router_service_pb2.Outcome(failed=failed)


def not_sent_outcome() -> router_service_pb2.Outcome:
    """Tell that nothing was sent."""
    return router_service_pb2.Outcome(not_sent=router_service_pb2.OutcomeNotSent())


def outcome_of(error: BaseException) -> router_service_pb2.Outcome | None:
    """Say what a provider's failure, raised in the block of an attempt, is; None if it is none."""
    if was_kept_back(error):
        return not_sent_outcome()
    return None if evidence_of(error) is None else failed_outcome(error)


def answered_outcome(error: BaseException) -> router_service_pb2.Outcome | None:
    """Say what an answer is that its SDK raises, since it cannot be parsed; None if it is none."""
    found = answer_in(error)
    if found is None:
        return None
    finish, answer = found
    return ok_outcome(answer, finish)


def _evidence(seen: FailureEvidence) -> router_service_pb2.FailureEvidence:
    if seen.http_status is None and seen.transport is None:
        raise UsageError("evidence of a failure has an HTTP status, or says how the transport did")
    return router_service_pb2.FailureEvidence(
        http_status=seen.http_status,
        headers=allowed_headers(seen.headers),
        body=seen.body[:BODY_BYTES_MAX],
        transport_failure=(
            _R.TRANSPORT_FAILURE_UNSPECIFIED
            if seen.transport is None
            else value_of(TRANSPORTS, seen.transport, "transport")
        ),
    )


def _usage(usage: Usage | None) -> completion_pb2.Usage | None:
    if usage is None:
        return None
    return completion_pb2.Usage(
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def _upper(word: str | None) -> str:
    return "UNSPECIFIED" if word is None else word.upper()
