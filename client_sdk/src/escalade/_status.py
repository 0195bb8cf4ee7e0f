"""How a call that failed becomes an error: by the reason in its details, else by its status."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from escalade._errors import (
    CODES,
    ERRORS,
    AnswerTooLarge,
    Cancelled,
    DeadlineReached,
    EscaladeError,
    Facts,
    RequestTooLarge,
    ServerBusy,
    StatusError,
    StreamCut,
    TransportError,
    Unreachable,
    Violation,
)
from escalade._events import Failed
from escalade._proto import instant_of

DOMAIN = "escalade.v1"
DETAILS_KEY = "grpc-status-details-bin"
LAST = re.compile(r"last error: \w+: (?:ipv[46]:)?(\S+): (.*)")
"""How gRPC tells the last of its attempts to connect: where, and why not."""
UNREACHED = (
    ("Connection refused", "nobody listens at {at}: is the server running, and is this its port?"),
    ("lookup failed", "the name cannot be found: is the target HOST:PORT?"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "the certificate of {at} is not trusted: is its authority given?",
    ),
    ("WRONG_VERSION_NUMBER", "{at} does not speak TLS: leave TLS out, or is the port wrong?"),
    ("HTTP/2", "what listens at {at} is no gRPC server: is the port wrong?"),
    ("Stream removed", "the server went away in mid-call"),
    ("Socket closed", "{at} hung up: does it want TLS, or does it shut down?"),
)
BARE = ("", "CANCELLED")
"""What a call that its own side cancels never says: a server that shuts down does (seen)."""


def error_from_rpc(
    error: grpc.RpcError, *, request_id: str, elapsed_s: float = 0.0, failed: Failed | None = None
) -> EscaladeError:
    """Read what gRPC raised, either of the synchronous or of the asyncio kind."""
    if not isinstance(error, grpc.aio.AioRpcError | grpc.Call):
        return TransportError(str(error), Facts(request_id=request_id))
    details = b""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            details = value
    return error_from_status(
        error.code(),
        error.details() or "",
        details,
        request_id=request_id,
        elapsed_s=elapsed_s,
        failed=failed,
    )


def error_from_status(
    code: grpc.StatusCode | None,
    message: str,
    details: bytes,
    *,
    request_id: str,
    elapsed_s: float = 0.0,
    failed: Failed | None = None,
) -> EscaladeError:
    """Make the error of a status, of its details, and of the Failed event before it.

    What the service said in `Failed` wins, since trailers may be lost on the road (P6); a quota
    is reported only on the service's own word (P10).
    """
    said = _read(details)
    reason = failed.reason if failed else said.reason
    report = failed.report if failed else None
    retry_after, retry_at = said.retry_after, None
    now = datetime.now(UTC)
    if report is not None and report.HasField("earliest"):
        retry_at = instant_of(report.earliest)
        retry_after = retry_after or max(retry_at - now, timedelta(0))
    elif retry_after is not None:
        retry_at = now + retry_after
    if failed and code in (None, grpc.StatusCode.OK):
        code = CODES.get(reason)
    facts = Facts(
        code=code,
        reason=reason,
        request_id=request_id,
        retry_after=retry_after,
        retry_at=retry_at,
        report=report,
        violations=said.violations,
        metadata=said.metadata,
    )
    message = (failed.message if failed else "") or message
    if reason:
        return ERRORS.get(reason, StatusError)(message or reason, facts)
    return _transport_error(code, message, elapsed_s, facts)


def _transport_error(
    code: grpc.StatusCode | None, message: str, elapsed_s: float, facts: Facts
) -> TransportError:
    broken = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
    if code in broken and "RST_STREAM" in message:
        hint = f"cut after {elapsed_s:.1f} s: a proxy's route timeout? ({message})"
        return StreamCut(hint, facts)
    if code is grpc.StatusCode.CANCELLED and (message in BARE or "RST_STREAM" in message):
        hint = f"cut after {elapsed_s:.1f} s from the other side: did it shut down? ({message})"
        return StreamCut(hint, facts)
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return Unreachable(_unreached(message), facts)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineReached(f"the deadline came first: allow more time ({message})", facts)
        case grpc.StatusCode.CANCELLED:
            return Cancelled(message, facts)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "CLIENT: Received message larger" in message:
            return AnswerTooLarge(message, facts)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "message larger than max" in message:
            return RequestTooLarge(message, facts)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ServerBusy(message, facts)
        case grpc.StatusCode.UNIMPLEMENTED:
            return TransportError(f"{message} (is this an Escalade server?)", facts)
        case _:
            return TransportError(message, facts)


def _unreached(message: str) -> str:
    """Say in plain words why nobody was reached; what gRPC said is the cause of the error."""
    last = LAST.search(message)
    at = unquote(last[1]) if last else "the server"
    for sign, words in UNREACHED:
        if sign in message:
            return words.format(at=at)
    return f"{at}: {last[2]}" if last else message


def _read(details: bytes) -> Facts:
    """Read the details of google.rpc; what is garbled, or of another domain, says nothing."""
    status = status_pb2.Status()
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    request = error_details_pb2.BadRequest()
    quota = error_details_pb2.QuotaFailure()
    found: list[str] = []
    try:
        status.ParseFromString(details)
        for packed in status.details:
            found += [
                kind.DESCRIPTOR.name
                for kind in (info, retry, request, quota)
                if packed.Unpack(kind)
            ]
    except DecodeError:
        return Facts()
    ours = info.domain == DOMAIN
    violations: Iterable[Violation] = (
        *(Violation(field.field, field.description) for field in request.field_violations),
        *(Violation(held.subject, held.description) for held in quota.violations),
    )
    return Facts(
        reason=info.reason if ours else "",
        retry_after=retry.retry_delay.ToTimedelta() if "RetryInfo" in found else None,
        violations=tuple(violations),
        metadata=dict(info.metadata) if ours else {},
    )
