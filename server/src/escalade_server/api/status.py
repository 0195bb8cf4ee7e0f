"""How a call is refused or fails: one table from reason to gRPC status, and ``google.rpc`` details.

Details ride in trailers, where 4 KiB are safe (P6): longer lists are cut, and their count is told.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from escalade.v1 import error_pb2
from escalade_server.api.convert_out import BUG_MESSAGE, ERROR_REASONS, wire_text
from escalade_server.api.mends import MENDS, mended
from escalade_server.core.facts import ErrorReason, Failed
from escalade_server.core.standing import VerdictClass

DOMAIN = "escalade.v1"
DETAILS_BYTES_MAX = 4_096
MESSAGE_BYTES_MAX = 480
ENTRY_BYTES_MAX = 200
PUSHBACK_MS_MAX = 2**31 - 1

_W, _S = error_pb2, grpc.StatusCode
STATUS: Mapping[error_pb2.ErrorReason.ValueType, grpc.StatusCode] = {
    _W.ERROR_REASON_REQUEST_INVALID: _S.INVALID_ARGUMENT,
    _W.ERROR_REASON_REQUEST_REJECTED: _S.INVALID_ARGUMENT,
    _W.ERROR_REASON_CALLER_UNKNOWN: _S.UNAUTHENTICATED,
    _W.ERROR_REASON_ROLE_REQUIRED: _S.PERMISSION_DENIED,
    _W.ERROR_REASON_LAYER_FORBIDDEN: _S.PERMISSION_DENIED,
    _W.ERROR_REASON_NO_ELIGIBLE_MODEL: _S.FAILED_PRECONDITION,
    _W.ERROR_REASON_CONSENT_REQUIRED: _S.FAILED_PRECONDITION,
    _W.ERROR_REASON_QUALITY_NOT_MET: _S.FAILED_PRECONDITION,
    _W.ERROR_REASON_TRIGGER_NOT_MET: _S.FAILED_PRECONDITION,
    _W.ERROR_REASON_BUDGET_EXHAUSTED: _S.RESOURCE_EXHAUSTED,
    _W.ERROR_REASON_RATE_LIMITED: _S.RESOURCE_EXHAUSTED,
    _W.ERROR_REASON_TOO_MANY_WAITERS: _S.RESOURCE_EXHAUSTED,
    _W.ERROR_REASON_SERVER_BUSY: _S.RESOURCE_EXHAUSTED,
    _W.ERROR_REASON_ALL_MODELS_FAILED: _S.UNAVAILABLE,
    _W.ERROR_REASON_DRAINING: _S.UNAVAILABLE,
    _W.ERROR_REASON_LEDGER_UNAVAILABLE: _S.UNAVAILABLE,
    _W.ERROR_REASON_DEADLINE_REACHED: _S.DEADLINE_EXCEEDED,
    _W.ERROR_REASON_CANCELLED: _S.CANCELLED,
    _W.ERROR_REASON_INTERRUPTED: _S.UNAVAILABLE,  # R23: faults U5 and U7 hold for FAIL
    _W.ERROR_REASON_REQUEST_IN_PROGRESS: _S.ABORTED,
    _W.ERROR_REASON_ALREADY_ANSWERED: _S.ALREADY_EXISTS,
    _W.ERROR_REASON_OUTCOME_CONFLICT: _S.INVALID_ARGUMENT,
    _W.ERROR_REASON_RESERVATION_UNKNOWN: _S.NOT_FOUND,
    _W.ERROR_REASON_RESUME_TOKEN_INVALID: _S.INVALID_ARGUMENT,
    _W.ERROR_REASON_CURSOR_EXPIRED: _S.OUT_OF_RANGE,
    _W.ERROR_REASON_MODEL_UNKNOWN: _S.NOT_FOUND,
    _W.ERROR_REASON_TRACE_UNKNOWN: _S.NOT_FOUND,
    _W.ERROR_REASON_NOT_YET_BUILT: _S.UNIMPLEMENTED,
    _W.ERROR_REASON_BUG: _S.INTERNAL,
}
RETRY_MS: Mapping[error_pb2.ErrorReason.ValueType, int] = {
    _W.ERROR_REASON_SERVER_BUSY: 1_000,
    _W.ERROR_REASON_DRAINING: 100,
    _W.ERROR_REASON_LEDGER_UNAVAILABLE: 1_000,
    _W.ERROR_REASON_REQUEST_IN_PROGRESS: 1_000,
}
"""When to try again where nobody names an instant."""

_PUSHED_BACK = frozenset({_S.RESOURCE_EXHAUSTED, _S.UNAVAILABLE})
_QUOTA_REASONS = frozenset({ErrorReason.RATE_LIMITED, ErrorReason.BUDGET_EXHAUSTED})
_QUOTA_VERDICTS = frozenset({VerdictClass.RATE, VerdictClass.MONEY, VerdictClass.HELD})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a call ends without an answer, ready for the wire.

    ``violations`` are (field path, what is wrong); ``quotas`` are (whose quota, what is used up);
    ``retry_ms`` None means: not by trying again.
    """

    reason: error_pb2.ErrorReason.ValueType
    message: str
    violations: tuple[tuple[str, str], ...] = ()
    quotas: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    retry_ms: int | None = None

    @property
    def code(self) -> grpc.StatusCode:
        """The one gRPC status of the reason."""
        return STATUS[self.reason]

    @property
    def delay_ms(self) -> int | None:
        """When to try again, from now; None: never."""
        return RETRY_MS.get(self.reason) if self.retry_ms is None else self.retry_ms


class RefusedError(Exception):
    """Carries a refusal from where it is found to where the call ends."""

    def __init__(self, refusal: Refusal) -> None:
        """Keep it; its message is ours."""
        super().__init__(refusal.message)
        self.refusal = refusal


def not_built(*names: str) -> Refusal:
    """Refuse what this server does not do yet, by name (P15)."""
    listed = ", ".join(names)
    return Refusal(
        error_pb2.ERROR_REASON_NOT_YET_BUILT,
        f"this server does not do yet: {listed}",
        metadata=(("not_built", listed),),
    )


def bug(bug_id: str) -> Refusal:
    """Refuse for a mistake of ours: fixed words and an opaque id, nothing else (P5, D8)."""
    return Refusal(error_pb2.ERROR_REASON_BUG, BUG_MESSAGE, metadata=(("id", bug_id),))


def refusal_of(failed: Failed, now_ms: int) -> Refusal:
    """Turn the failure of a task into its status."""
    reason = ERROR_REASONS[failed.reason]
    if failed.reason is ErrorReason.BUG:
        return bug(dict(failed.metadata).get("id", failed.report.request_id))
    quotas: tuple[tuple[str, str], ...] = ()
    if failed.reason in _QUOTA_REASONS:
        quotas = tuple(
            (skip.model.key if skip.model is not None else skip.layer, skip.verdict.detail)
            for skip in failed.report.skips
            if skip.verdict.cls in _QUOTA_VERDICTS
        )
    field = dict(failed.metadata).get("field")
    return Refusal(
        reason,
        failed.detail,
        violations=((field, failed.detail),) if field else (),
        quotas=quotas,
        metadata=failed.metadata,
        retry_ms=None if failed.retry_at_ms is None else max(failed.retry_at_ms - now_ms, 0),
    )


def _short(text: str, limit: int) -> str:
    """Cut a text to a number of bytes."""
    data = wire_text(text).encode()
    return (
        data.decode() if len(data) <= limit else f"{data[: limit - 3].decode(errors='ignore')}..."
    )


def _details(refusal: Refusal, listed: int) -> list[Message]:
    """Make the details, with at most ``listed`` entries in each list."""
    entries = max(len(refusal.violations), len(refusal.quotas))
    metadata = {key: _short(value, ENTRY_BYTES_MAX) for key, value in refusal.metadata[:8]}
    if entries > listed:
        metadata["omitted"] = str(entries - listed)
    name = error_pb2.ErrorReason.Name(refusal.reason).removeprefix("ERROR_REASON_")
    info = error_details_pb2.ErrorInfo(reason=name, domain=DOMAIN, metadata=metadata)
    details: list[Message] = [info]
    if refusal.delay_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(refusal.delay_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if refusal.quotas:
        failure = error_details_pb2.QuotaFailure()
        for subject, what in refusal.quotas[:listed]:
            failure.violations.add(subject=subject, description=_short(what, ENTRY_BYTES_MAX))
        details.append(failure)
    if refusal.violations:
        bad = error_details_pb2.BadRequest()
        for field, what in refusal.violations[:listed]:
            bad.field_violations.add(field=field, description=_short(what, ENTRY_BYTES_MAX))
        details.append(bad)
    return details


def status_of(refusal: Refusal) -> status_pb2.Status:
    """Write a refusal as ``google.rpc.Status``, in at most ``DETAILS_BYTES_MAX`` bytes (P6)."""
    listed = max(len(refusal.violations), len(refusal.quotas))
    room = MESSAGE_BYTES_MAX - len(MENDS[refusal.reason].words) - 2
    message = mended(refusal.reason, _short(refusal.message, room))
    while True:
        status = status_pb2.Status(code=refusal.code.value[0], message=message)
        for detail in _details(refusal, listed):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        if status.ByteSize() <= DETAILS_BYTES_MAX or not listed:
            return status
        listed //= 2


def trailers_of(refusal: Refusal, status: status_pb2.Status) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata: the details, and gRPC's own pushback where a client may retry (A8)."""
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status.SerializeToString())
    ]
    if refusal.code in _PUSHED_BACK:
        delay = refusal.delay_ms
        pushback = -1 if delay is None else min(delay, PUSHBACK_MS_MAX)
        trailers.append(("grpc-retry-pushback-ms", str(pushback)))
    return tuple(trailers)
