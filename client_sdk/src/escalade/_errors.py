"""The errors, one tree.

EscaladeError                     code, reason, request_id, retry_after, retry_at, attempts, report
├── UsageError                    a mistake in the call, found before anything is sent
├── TransportError                the call did not get through, or its answer did not
│   ├── Unreachable               no server there, or it went away
│   ├── StreamCut                 something on the road, such as a proxy, cut the stream
│   ├── RequestTooLarge           more bytes than the size limit
│   ├── AnswerTooLarge            likewise, on the way back
│   ├── ServerBusy                SERVER_BUSY, or an overload that nobody explains (P10)
│   ├── DeadlineReached           DEADLINE_REACHED, or the deadline ended on the way
│   ├── Cancelled                 CANCELLED
│   └── ProtocolViolation         the stream broke the rules; nothing of it is to be trusted
└── StatusError                   the service says no, with a reason; newer reasons: this class
    ├── RequestInvalid            INVALID_ARGUMENT REQUEST_INVALID
    ├── RequestRejected           INVALID_ARGUMENT REQUEST_REJECTED
    ├── OutcomeConflict           INVALID_ARGUMENT OUTCOME_CONFLICT
    ├── ResumeTokenInvalid        INVALID_ARGUMENT RESUME_TOKEN_INVALID
    ├── CallerUnknown             UNAUTHENTICATED CALLER_UNKNOWN
    ├── RoleRequired              PERMISSION_DENIED ROLE_REQUIRED
    ├── LayerForbidden            PERMISSION_DENIED LAYER_FORBIDDEN
    ├── NoEligibleModel           FAILED_PRECONDITION NO_ELIGIBLE_MODEL
    ├── ConsentRequired           FAILED_PRECONDITION CONSENT_REQUIRED
    ├── QualityNotMet             FAILED_PRECONDITION QUALITY_NOT_MET
    ├── TriggerNotMet             FAILED_PRECONDITION TRIGGER_NOT_MET
    ├── BudgetExhausted           RESOURCE_EXHAUSTED BUDGET_EXHAUSTED
    ├── RateLimited               RESOURCE_EXHAUSTED RATE_LIMITED
    ├── TooManyWaiters            RESOURCE_EXHAUSTED TOO_MANY_WAITERS
    ├── AllModelsFailed           UNAVAILABLE ALL_MODELS_FAILED
    ├── Draining                  UNAVAILABLE DRAINING
    ├── LedgerUnavailable         UNAVAILABLE LEDGER_UNAVAILABLE
    ├── Interrupted               UNAVAILABLE INTERRUPTED
    ├── RequestInProgress         ABORTED REQUEST_IN_PROGRESS
    ├── AlreadyAnswered           ALREADY_EXISTS ALREADY_ANSWERED
    ├── ReservationUnknown        NOT_FOUND RESERVATION_UNKNOWN
    ├── ModelUnknown              NOT_FOUND MODEL_UNKNOWN
    ├── TraceUnknown              NOT_FOUND TRACE_UNKNOWN
    ├── CursorExpired             OUT_OF_RANGE CURSOR_EXPIRED
    ├── NotYetBuilt               UNIMPLEMENTED NOT_YET_BUILT
    └── ServiceBug                INTERNAL BUG
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

import grpc

from escalade._proto import name_of, one_line, usd_of
from escalade._record import Attempt, attempt_from_proto
from escalade.v1 import error_pb2, escalation_pb2


@dataclass(frozen=True, slots=True)
class Violation:
    """What is wrong with one field of the request, or with one quota."""

    subject: str
    description: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a failed call; the attributes of its error."""

    code: grpc.StatusCode | None = None
    reason: str = ""
    request_id: str = ""
    retry_after: timedelta | None = None
    retry_at: datetime | None = None
    report: escalation_pb2.Report | None = None
    violations: tuple[Violation, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


NOTHING_KNOWN = Facts()


class EscaladeError(Exception):
    """The root of every error of this package.

    Attributes:
        code: The gRPC status; None if nothing was sent.
        reason: A name of `escalade.v1.ErrorReason` without its prefix, such as RATE_LIMITED;
            empty if the service gave none.
        request_id: The id of the request; the same id is never answered and charged twice.
        retry_after: How long to wait before the next call; None if waiting does not help, or
            nobody knows.
        retry_at: The same as an instant in UTC.
        report: What was tried and paid, as the wire has it; None if the service did not say.
        violations: Fields or quotas that are at fault.
        metadata: What the service adds to the reason.
    """

    def __init__(self, message: str, facts: Facts = NOTHING_KNOWN) -> None:
        super().__init__(message, facts)
        self.message = message
        self.code = facts.code
        self.reason = facts.reason
        self.request_id = facts.request_id
        self.retry_after = facts.retry_after
        self.retry_at = facts.retry_at
        self.report = facts.report
        self.violations = facts.violations
        self.metadata = facts.metadata

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Every attempt that the service made, in order."""
        made = self.report.attempts if self.report else ()
        return tuple(attempt_from_proto(attempt) for attempt in made)

    @property
    def cost_nanos(self) -> int:
        """What the attempts are charged, in nano-dollars."""
        return self.report.cost.charged_nano_usd if self.report else 0

    @property
    def cost_usd(self) -> Decimal:
        """What the attempts are charged, in dollars."""
        return usd_of(self.cost_nanos)

    @property
    def story(self) -> str:
        """The task in one sentence; empty if the service did not tell."""
        return self.report.story if self.report else ""

    def __str__(self) -> str:
        code = self.code.name if self.code else ""
        tags = [self.reason or code, f"request {self.request_id}" if self.request_id else ""]
        known = ", ".join(tag for tag in tags if tag)
        return one_line(self.message) + (f" [{known}]" if known else "")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class UsageError(EscaladeError, ValueError):
    """A mistake in the call, found before anything is sent."""


class TransportError(EscaladeError):
    """The call did not get through, or its answer did not."""


class Unreachable(TransportError):
    """No server answers there, or it went away in mid-call."""


class StreamCut(TransportError):
    """Something on the road cut the stream: often the route timeout of a proxy (P8)."""


class RequestTooLarge(TransportError):
    """The request has more bytes than the size limit of client or server."""


class AnswerTooLarge(TransportError):
    """The answer has more bytes than the size limit of the client."""


class ServerBusy(TransportError):
    """The server has too many calls, or bytes of calls, in flight. It is no quota of a model."""


class DeadlineReached(TransportError, TimeoutError):
    """The deadline ended. `retry_at` is set if the service knew when it could have gone on."""


class Cancelled(TransportError):
    """The call was cancelled."""


class ProtocolViolation(TransportError):
    """The stream broke the rules of the API; nothing of it is to be trusted."""


class StatusError(EscaladeError):
    """The service says no, with a reason. Reasons newer than this package are this very class."""


class RequestInvalid(StatusError):
    """The request is malformed, or its id is known with other content."""


class RequestRejected(StatusError):
    """A provider blames the content of the request."""


class OutcomeConflict(StatusError):
    """An attempt was reported a second time with a different outcome."""


class ResumeTokenInvalid(StatusError):
    """The resume token is forged, or of another agent or request."""


class CallerUnknown(StatusError):
    """The token is missing, wrong or expired."""


class RoleRequired(StatusError):
    """The method needs an operator's token."""


class LayerForbidden(StatusError):
    """The agent may not use the layer it demands."""


class NoEligibleModel(StatusError):
    """No model meets the limits of the task."""


class ConsentRequired(StatusError):
    """Only a layer is left that needs the caller's consent."""


class QualityNotMet(StatusError):
    """Every answer failed its quality gates."""


class TriggerNotMet(StatusError):
    """The strategy does not let this task into the layers that are left."""


class BudgetExhausted(StatusError):
    """A cap or spend limit has no room."""


class RateLimited(StatusError):
    """Every model that could answer is rate limited; `retry_at` is the earliest instant."""


class TooManyWaiters(StatusError):
    """Too many tasks wait already."""


class AllModelsFailed(StatusError):
    """Every candidate failed, and a later call may succeed."""


class Draining(StatusError):
    """The server shuts down."""


class LedgerUnavailable(StatusError):
    """The ledger is out of reach, so that no cap could be kept."""


class Interrupted(StatusError):
    """The model broke in mid-answer, and the caller asked for failure, not for a restart."""


class RequestInProgress(StatusError):
    """The first call with this request id still runs."""


class AlreadyAnswered(StatusError):
    """This request id was answered, and the answer is no longer kept.

    `report` has the figures of that answer; its cost was charged then, and nothing is now.
    """


class ReservationUnknown(StatusError):
    """The reservation does not exist, is another agent's, or is over 24 hours old."""


class ModelUnknown(StatusError):
    """The strategy has no such layer or model."""


class TraceUnknown(StatusError):
    """The trace of this task is not kept, is over a day old, or is another agent's."""


class CursorExpired(StatusError):
    """The cursor is older than the feed."""


class NotYetBuilt(StatusError):
    """The server does not do this yet; the message names it."""


class ServiceBug(StatusError):
    """A mistake of the service; `metadata` carries an id for its logs."""


class _Row(NamedTuple):
    reason: error_pb2.ErrorReason.ValueType
    code: grpc.StatusCode
    error: type[EscaladeError]


# Every reason, the status it travels with, and its class.
TABLE = (
    _Row(error_pb2.ERROR_REASON_REQUEST_INVALID, grpc.StatusCode.INVALID_ARGUMENT, RequestInvalid),
    _Row(
        error_pb2.ERROR_REASON_REQUEST_REJECTED, grpc.StatusCode.INVALID_ARGUMENT, RequestRejected
    ),
    _Row(
        error_pb2.ERROR_REASON_OUTCOME_CONFLICT, grpc.StatusCode.INVALID_ARGUMENT, OutcomeConflict
    ),
    _Row(
        error_pb2.ERROR_REASON_RESUME_TOKEN_INVALID,
        grpc.StatusCode.INVALID_ARGUMENT,
        ResumeTokenInvalid,
    ),
    _Row(error_pb2.ERROR_REASON_CALLER_UNKNOWN, grpc.StatusCode.UNAUTHENTICATED, CallerUnknown),
    _Row(error_pb2.ERROR_REASON_ROLE_REQUIRED, grpc.StatusCode.PERMISSION_DENIED, RoleRequired),
    _Row(error_pb2.ERROR_REASON_LAYER_FORBIDDEN, grpc.StatusCode.PERMISSION_DENIED, LayerForbidden),
    _Row(
        error_pb2.ERROR_REASON_NO_ELIGIBLE_MODEL,
        grpc.StatusCode.FAILED_PRECONDITION,
        NoEligibleModel,
    ),
    _Row(
        error_pb2.ERROR_REASON_CONSENT_REQUIRED,
        grpc.StatusCode.FAILED_PRECONDITION,
        ConsentRequired,
    ),
    _Row(
        error_pb2.ERROR_REASON_QUALITY_NOT_MET, grpc.StatusCode.FAILED_PRECONDITION, QualityNotMet
    ),
    _Row(
        error_pb2.ERROR_REASON_TRIGGER_NOT_MET, grpc.StatusCode.FAILED_PRECONDITION, TriggerNotMet
    ),
    _Row(
        error_pb2.ERROR_REASON_BUDGET_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED, BudgetExhausted
    ),
    _Row(error_pb2.ERROR_REASON_RATE_LIMITED, grpc.StatusCode.RESOURCE_EXHAUSTED, RateLimited),
    _Row(
        error_pb2.ERROR_REASON_TOO_MANY_WAITERS, grpc.StatusCode.RESOURCE_EXHAUSTED, TooManyWaiters
    ),
    _Row(error_pb2.ERROR_REASON_ALL_MODELS_FAILED, grpc.StatusCode.UNAVAILABLE, AllModelsFailed),
    _Row(error_pb2.ERROR_REASON_DRAINING, grpc.StatusCode.UNAVAILABLE, Draining),
    _Row(error_pb2.ERROR_REASON_LEDGER_UNAVAILABLE, grpc.StatusCode.UNAVAILABLE, LedgerUnavailable),
    _Row(error_pb2.ERROR_REASON_INTERRUPTED, grpc.StatusCode.UNAVAILABLE, Interrupted),
    _Row(error_pb2.ERROR_REASON_REQUEST_IN_PROGRESS, grpc.StatusCode.ABORTED, RequestInProgress),
    _Row(error_pb2.ERROR_REASON_ALREADY_ANSWERED, grpc.StatusCode.ALREADY_EXISTS, AlreadyAnswered),
    _Row(error_pb2.ERROR_REASON_RESERVATION_UNKNOWN, grpc.StatusCode.NOT_FOUND, ReservationUnknown),
    _Row(error_pb2.ERROR_REASON_MODEL_UNKNOWN, grpc.StatusCode.NOT_FOUND, ModelUnknown),
    _Row(error_pb2.ERROR_REASON_TRACE_UNKNOWN, grpc.StatusCode.NOT_FOUND, TraceUnknown),
    _Row(error_pb2.ERROR_REASON_CURSOR_EXPIRED, grpc.StatusCode.OUT_OF_RANGE, CursorExpired),
    _Row(error_pb2.ERROR_REASON_NOT_YET_BUILT, grpc.StatusCode.UNIMPLEMENTED, NotYetBuilt),
    _Row(error_pb2.ERROR_REASON_BUG, grpc.StatusCode.INTERNAL, ServiceBug),
    _Row(error_pb2.ERROR_REASON_SERVER_BUSY, grpc.StatusCode.RESOURCE_EXHAUSTED, ServerBusy),
    _Row(
        error_pb2.ERROR_REASON_DEADLINE_REACHED, grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineReached
    ),
    _Row(error_pb2.ERROR_REASON_CANCELLED, grpc.StatusCode.CANCELLED, Cancelled),
)
ERRORS: Mapping[str, type[EscaladeError]] = MappingProxyType(
    {name_of(error_pb2.ErrorReason.DESCRIPTOR, row.reason): row.error for row in TABLE}
)
CODES: Mapping[str, grpc.StatusCode] = MappingProxyType(
    {name_of(error_pb2.ErrorReason.DESCRIPTOR, row.reason): row.code for row in TABLE}
)
