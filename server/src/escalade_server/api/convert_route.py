"""``Route`` on the wire: its first message, outcomes and evidence in; plans and bookings out."""

import hashlib
from collections.abc import Mapping

from escalade.v1 import completion_pb2, error_pb2, escalation_pb2, router_service_pb2
from escalade.v1.router_service_pb2 import (
    Outcome,
    ReportOutcomeResponse,
    RouteRequest,
    RouteResponse,
)
from escalade_server.api.content import content_of
from escalade_server.api.convert_in import (
    NO_LIMITS,
    OUTPUT_TOKENS_MAX,
    TOKENS_MAX,
    closed_to,
    constraints_from_proto,
    enum_from_proto,
    note_unbuilt,
    task_from_proto,
)
from escalade_server.api.convert_messages import messages_from_proto
from escalade_server.api.convert_out import (
    FAILURES,
    FINISHES,
    VERDICTS,
    model_to_proto,
    put_attempt,
    put_event,
    reason_word,
    time_to_proto,
    wire_text,
)
from escalade_server.api.convert_quality import GATES
from escalade_server.api.findings import DURATION_MS_MAX, ID, Findings
from escalade_server.core.catalog import Catalog
from escalade_server.core.events import Finish, OutcomeReported
from escalade_server.core.facts import Assessed
from escalade_server.core.failure import DAY_MS, NEVER_MS, Failure, FailureClass
from escalade_server.core.plan import Plan, Row, is_ok, sentence
from escalade_server.core.task import Delivery, Feature, FinishReason, Request, Usage
from escalade_server.core.tracing import TraceContext
from escalade_server.engine.late import Booked
from escalade_server.engine.ports import RawEvidence, TransportFault

ROUTE_MS = DAY_MS
"""How long a task may go on whose caller states no limit: as long as it may report (R32)."""
FEATURES_MAX = 16
BODY_BYTES_MAX = 8_192
HEADERS_MAX = 64
HEADER_CHARS_MAX = 1_024
WORDS_MAX = 256

_W, _R = error_pb2, router_service_pb2
_FEATURES: Mapping[int, Feature] = {
    _R.FEATURE_TOOLS: Feature.TOOLS,
    _R.FEATURE_IMAGES: Feature.IMAGES,
    _R.FEATURE_JSON_SCHEMA: Feature.JSON_SCHEMA,
}
_FINISHES: Mapping[int, FinishReason | None] = {
    completion_pb2.FINISH_REASON_UNSPECIFIED: None,
    **{value: reason for reason, value in FINISHES.items()},
}
_CLASSES: Mapping[int, FailureClass] = {
    _W.FAILURE_CLASS_UNSPECIFIED: FailureClass.UNKNOWN,  # refused, as the next is
    _W.FAILURE_CLASS_GATE: FailureClass.UNKNOWN,
    **{value: cls for cls, value in FAILURES.items()},
}
_FAULTS: Mapping[int, TransportFault | None] = {
    _R.TRANSPORT_FAILURE_UNSPECIFIED: None,
    _R.TRANSPORT_FAILURE_CONNECT: TransportFault.CONNECT,
    _R.TRANSPORT_FAILURE_RESET: TransportFault.RESET,
    _R.TRANSPORT_FAILURE_TIMEOUT: TransportFault.TIMEOUT,
    _R.TRANSPORT_FAILURE_DNS: TransportFault.DNS,
    _R.TRANSPORT_FAILURE_TLS: TransportFault.TLS,
    _R.TRANSPORT_FAILURE_PROTOCOL: TransportFault.PROTOCOL,
}
_FIRST_ONLY = (
    "constraints", "features", "input_tokens", "max_output_tokens", "messages", "request_id",
    "resume_token",
)  # fmt: skip


def route_from_proto(
    wire: RouteRequest, catalog: Catalog, *, request_id: str, now_ms: int, left_ms: int | None,
    agent: str, trusted: bool, trace: TraceContext | None = None,
) -> Request:  # fmt: skip
    """Convert the first message of a stream; arguments as for ``request_from_proto``.

    ``trusted`` says whether the caller's reports hold for everyone (R33).

    Raises:
        RefusedError: with every finding.
    """
    found, has = Findings(closed_to(agent, catalog)), wire.HasField
    kind = wire.WhichOneof("kind")
    if kind != "task":
        found.wrong(kind or "task", "cannot come first: the first message holds the task")
    note_unbuilt(wire, found)
    constraints, work_ms = NO_LIMITS, ROUTE_MS
    if has("constraints"):
        constraints = constraints_from_proto(wire.constraints, catalog, found)
        if wire.constraints.HasField("timeout"):
            timeout = wire.constraints.timeout
            work_ms = found.span_ms("constraints.timeout", timeout, 1, DURATION_MS_MAX)
    input_tokens = output_max = None
    if has("input_tokens"):
        input_tokens = found.whole("input_tokens", wire.input_tokens, 1, TOKENS_MAX)
    if has("max_output_tokens"):
        asked = wire.max_output_tokens
        output_max = found.whole("max_output_tokens", asked, 1, OUTPUT_TOKENS_MAX)
    if wire.request_id:
        request_id = found.matches("request_id", wire.request_id, ID)
    request = Request(
        id=request_id,
        task=task_from_proto(wire.task, found),
        messages=messages_from_proto(wire.messages, found) if wire.messages else (),
        output_tokens_max=output_max,
        constraints=constraints,
        delivery=Delivery.ROUTE,
        agent=agent,
        trusted_reports=trusted,
        deadline_ms=now_ms + (work_ms if left_ms is None else min(work_ms, left_ms)),
        ends_ms=NEVER_MS if left_ms is None else now_ms + left_ms,
        input_tokens=input_tokens,
        features=_features(wire, found),
        trace=trace,
        content=content_of(wire),
    )
    found.raise_any()
    return request


def _features(wire: RouteRequest, found: Findings) -> frozenset[Feature]:
    found.listed("features", len(wire.features), FEATURES_MAX)
    needed = set()
    for at, value in enumerate(wire.features[:FEATURES_MAX]):
        feature = _FEATURES.get(value)
        if feature is not None:
            needed.add(feature)
        elif value == _R.FEATURE_UNSPECIFIED:
            found.wrong(f"features[{at}]", "is not set")
        else:
            found.unbuilt(f"features[{at}] = {value}")
    return frozenset(needed)


def later_kind(wire: RouteRequest) -> str:
    """Check a message after the first; answer ``outcome`` or ``progress``.

    Raises:
        RefusedError: it is neither, or sets what only the first may.
    """
    found, kind = Findings(), wire.WhichOneof("kind")
    if kind is None:
        found.wrong("outcome", "is not set, nor is progress")
    elif kind == "task":
        found.wrong("task", "stands in the first message only; a further task is a further call")
    for field, _ in wire.ListFields():
        if field.name in _FIRST_ONLY:
            found.wrong(field.name, "stands in the first message only")
    found.raise_any()
    assert kind is not None, "refused above"
    return kind


def outcome_from_proto(wire: Outcome) -> tuple[OutcomeReported, RawEvidence | None]:
    """Convert an outcome; evidence that comes with it says what its failure is.

    Raises:
        RefusedError: with every finding.
    """
    found = Findings()
    outcome, evidence = OutcomeReported(wire.attempt, digest=_digest(wire)), None
    match wire.WhichOneof("result"):
        case None:
            found.wrong("outcome.result", "is not set: ok, rejected, failed or not_sent")
        case "ok":
            ok = wire.ok
            reason = enum_from_proto("outcome.ok.finish_reason", ok.finish_reason, _FINISHES, found)
            outcome = outcome._replace(
                usage=_usage("outcome.ok.usage", ok, found),
                finish=None if reason is None else Finish(reason),
                model=_words("outcome.ok.reported_model", ok.reported_model, found),
            )
        case "rejected":
            outcome = outcome._replace(
                usage=_usage("outcome.rejected.usage", wire.rejected, found),
                rejected=_gate(wire.rejected, found),
                gate=GATES.get(wire.rejected.gate),
            )
        case "failed":
            failure, evidence = _failed(wire.failed, found)
            usage = _usage("outcome.failed.usage", wire.failed, found)
            outcome = outcome._replace(usage=usage, failure=failure)
        case "not_sent":
            failure = Failure(FailureClass.UNKNOWN, "was not sent by its caller", sent=False)
            outcome = outcome._replace(failure=failure)
    if wire.HasField("time_to_first_token"):
        path, span = "outcome.time_to_first_token", wire.time_to_first_token
        outcome = outcome._replace(first_token_ms=found.span_ms(path, span, 0, DURATION_MS_MAX))
    if wire.HasField("elapsed"):
        elapsed_ms = found.span_ms("outcome.elapsed", wire.elapsed, 0, DURATION_MS_MAX)
        outcome = outcome._replace(elapsed_ms=elapsed_ms)
    found.raise_any()
    return outcome, evidence


def _digest(wire: Outcome) -> str:
    """Tell two outcomes apart by what they say of the call, not by when or how it is said."""
    said = Outcome()
    said.CopyFrom(wire)
    for name in ("attempt", "time_to_first_token", "elapsed"):
        said.ClearField(name)
    return hashlib.sha256(said.SerializeToString(deterministic=True)).hexdigest()[:32]


def _usage(
    path: str,
    holder: _R.OutcomeOk | _R.OutcomeRejected | _R.OutcomeFailed,
    found: Findings,
) -> Usage | None:
    if not holder.HasField("usage"):
        return None
    wire = holder.usage

    def count(name: str, value: int, most: int) -> int:
        return found.whole(f"{path}.{name}", value, 0, most)

    read = count("input_tokens", wire.input_tokens, TOKENS_MAX)
    made = count("output_tokens", wire.output_tokens, TOKENS_MAX)
    cached = count("cached_input_tokens", wire.cached_input_tokens, max(read, 0))
    written = count("cache_write_tokens", wire.cache_write_tokens, max(read - cached, 0))
    reasoning = count("reasoning_tokens", wire.reasoning_tokens, max(made, 0))
    return Usage(read, made, cached, written, reasoning)


def _words(path: str, text: str, found: Findings) -> str:
    """Take a caller's own words: they go into records and logs, so nothing in them is a line."""
    if len(text) > WORDS_MAX or not text.isprintable():
        found.wrong(path, f"must be printable, at most {WORDS_MAX} characters")
    return text


def _gate(wire: _R.OutcomeRejected, found: Findings) -> str:
    detail = _words("outcome.rejected.detail", wire.detail, found)
    gates = completion_pb2.Gate
    if wire.gate not in gates.values():
        found.unbuilt(f"outcome.rejected.gate = {wire.gate}")
        return "unknown"
    word = gates.Name(wire.gate).removeprefix("GATE_").lower()
    if wire.gate == completion_pb2.GATE_UNSPECIFIED:
        word = "of its own"
    return f"{word} ({detail})" if detail else word


def _failed(wire: _R.OutcomeFailed, found: Findings) -> tuple[Failure | None, RawEvidence | None]:
    path = "outcome.failed"
    if wire.WhichOneof("cause") == "failure_evidence":
        return None, _evidence(f"{path}.failure_evidence", wire.failure_evidence, found)
    if wire.failure_class == _W.FAILURE_CLASS_UNSPECIFIED:
        found.wrong(f"{path}.failure_class", "is not set, nor is failure_evidence")
    elif wire.failure_class == _W.FAILURE_CLASS_GATE:
        found.wrong(f"{path}.failure_class", "is GATE; an answer that failed one is `rejected`")
    cls = enum_from_proto(f"{path}.failure_class", wire.failure_class, _CLASSES, found)
    return Failure(cls, f"its caller reports {cls.value}"), None


def _evidence(path: str, wire: _R.FailureEvidence, found: Findings) -> RawEvidence:
    fault = enum_from_proto(f"{path}.transport_failure", wire.transport_failure, _FAULTS, found)
    status = 0
    if wire.HasField("http_status"):
        status = found.whole(f"{path}.http_status", wire.http_status, 100, 599)
    elif fault is None:
        found.wrong(f"{path}.http_status", "is not set, nor is transport_failure")
    found.listed(f"{path}.headers", len(wire.headers), HEADERS_MAX)
    for name, value in wire.headers.items():
        if len(name) > HEADER_CHARS_MAX or len(value) > HEADER_CHARS_MAX:
            found.wrong(f"{path}.headers", f"has one of over {HEADER_CHARS_MAX} characters")
    if len(wire.body) > BODY_BYTES_MAX:
        what = f"has {len(wire.body):,} bytes; send the first {BODY_BYTES_MAX:,}"
        found.wrong(f"{path}.body", what)
    headers = {name.lower(): value for name, value in wire.headers.items()}
    return RawEvidence(status, headers, wire.body, fault)


def plan_to_proto(found: Plan, request: Request, now_ms: int) -> RouteResponse:
    """Write the whole answer to a dry run: every model in the order of the plan (R31)."""
    response = RouteResponse()
    put_event(response.events.add(), 1, Assessed(found.assessment), whole=False)
    event = response.events.add()
    event.sequence = 2
    report, allowed = event.finished.report, request.constraints.allowed_models
    report.request_id = request.id
    report.requested_model = allowed[0] if len(allowed) == 1 else ""
    if found.selected is not None:
        report.selected.CopyFrom(model_to_proto(found.selected))
    report.plan.extend(_candidate(row) for row in found.rows)
    report.story = wire_text(sentence(found))
    for instant in (report.started, report.ended):
        instant.FromMilliseconds(now_ms)
    return response


def _candidate(row: Row) -> escalation_pb2.Candidate:
    verdict = row.verdict
    return escalation_pb2.Candidate(
        target=model_to_proto(row.model),
        verdict=VERDICTS[verdict.cls],
        reason="" if is_ok(verdict) else reason_word(verdict.cause),
        detail=wire_text(verdict.detail),
        until=time_to_proto(verdict.until_ms),
        worst_case_nano_usd=row.list_nanos,
    )


def booked_to_proto(booked: Booked) -> ReportOutcomeResponse:
    """Write an attempt as it is booked now."""
    response = ReportOutcomeResponse(corrected=booked.corrected)
    put_attempt(response.attempt, booked.record)
    return response
