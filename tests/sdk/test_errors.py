import pickle
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

import escalade
from escalade import _errors
from escalade._errors import CODES, ERRORS, TABLE, Facts
from escalade._events import Failed
from escalade._status import error_from_rpc, error_from_status
from escalade.v1 import error_pb2, escalation_pb2

PROTO = Path(__file__).resolve().parents[2] / "protos/escalade/v1/error.proto"


def details_of(*details: Message) -> bytes:
    status = status_pb2.Status()
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    written: bytes = status.SerializeToString()
    return written


def info(reason: str, domain: str = "escalade.v1") -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata={"id": "7"})


def subclasses(root: type[escalade.EscaladeError]) -> Iterator[type[escalade.EscaladeError]]:
    for child in root.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_reason_has_one_class_of_its_own() -> None:
    reasons = set(error_pb2.ErrorReason.values()) - {error_pb2.ERROR_REASON_UNSPECIFIED}

    assert {row.reason for row in TABLE} == reasons
    assert len(TABLE) == len(reasons) == len({row.error for row in TABLE})


def test_every_reason_has_the_status_that_the_protos_say() -> None:
    stated = re.findall(r"// ([A-Z_]+): Marks.*?ERROR_REASON_(\w+) =", PROTO.read_text(), re.DOTALL)

    assert len(stated) == len(TABLE)
    assert {reason: CODES[reason].name for _, reason in stated} == {
        reason: code for code, reason in stated
    }


def test_the_tree_is_drawn_as_it_is() -> None:
    drawn = re.findall(
        r"^([│ ]*)[├└]── (\w+)(?: +([A-Z_]+) ([A-Z_]+)$)?", _errors.__doc__ or "", re.MULTILINE
    )
    parents = {"": "EscaladeError"}
    tree = {}
    for depth, name, code, reason in drawn:
        tree[name] = parents[depth]
        parents[depth + "│   "] = parents[depth + "    "] = name
        if reason:
            assert (CODES[reason].name, ERRORS[reason].__name__) == (code, name)

    made = set(subclasses(escalade.EscaladeError))
    assert tree == {kind.__name__: kind.__bases__[0].__name__ for kind in made}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.error.__name__))
def test_a_reason_becomes_its_class(row: _errors._Row) -> None:
    reason = error_pb2.ErrorReason.Name(row.reason).removeprefix("ERROR_REASON_")
    by_details = error_from_status(row.code, "no", details_of(info(reason)), request_id="r")
    by_event = error_from_status(
        None, "", b"", request_id="r", failed=Failed(reason, "no", "", escalation_pb2.Report())
    )

    for error in (by_details, by_event):
        assert type(error) is row.error
        assert (error.code, error.reason, error.request_id) == (row.code, reason, "r")
        assert str(error) == f"no [{reason}, request r]"
    assert by_details.metadata == {"id": "7"}


def test_a_newer_reason_is_a_status_error() -> None:
    error = error_from_status(
        grpc.StatusCode.ABORTED, "what", details_of(info("FROM_THE_FUTURE")), request_id=""
    )

    assert type(error) is escalade.StatusError
    assert str(error) == "what [FROM_THE_FUTURE]"


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max", "RequestTooLarge"),
        ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max", "RequestTooLarge"),
        (
            "RESOURCE_EXHAUSTED",
            "Stream removed (CLIENT: Received message larger than max (9 vs. 1))",
            "AnswerTooLarge",
        ),
        ("RESOURCE_EXHAUSTED", "Concurrent RPC limit exceeded!", "ServerBusy"),
        ("UNAVAILABLE", "connection refused", "Unreachable"),
        ("UNAVAILABLE", "Received RST_STREAM with error code 0", "StreamCut"),
        ("INTERNAL", "Received RST_STREAM with error code 2", "StreamCut"),
        ("INTERNAL", "oops", "TransportError"),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", "DeadlineReached"),
        ("CANCELLED", "Locally cancelled by application!", "Cancelled"),
        ("CANCELLED", "CANCELLED", "StreamCut"),
        ("CANCELLED", "", "StreamCut"),
        ("UNIMPLEMENTED", "Method not found!", "TransportError"),
        ("UNAUTHENTICATED", "a proxy says so", "TransportError"),
    ],
)
def test_a_bare_status_is_never_a_quota(code: str, message: str, kind: str) -> None:
    foreign = details_of(info("RATE_LIMITED", domain="googleapis.com"))
    for details in (b"", b"\xff garbled", foreign):
        error = error_from_status(
            grpc.StatusCode[code], message, details, request_id="", elapsed_s=15.04
        )
        assert type(error).__name__ == kind
        assert isinstance(error, escalade.TransportError)
        assert error.reason == ""
        assert message in str(error)
        if kind == "StreamCut":
            assert str(error).startswith("cut after 15.0 s")
            assert ("a proxy's route timeout?" in str(error)) is (code != "CANCELLED")


REFUSED = "connections to all backends failing; last error: UNKNOWN: "


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            REFUSED + "ipv4:127.0.0.1:5: Failed to connect to remote host: Connection refused",
            "nobody listens at 127.0.0.1:5: is the server running, and is this its port?",
        ),
        (
            REFUSED + "ipv6:%5B::1%5D:5: Failed to connect to remote host: Connection refused",
            "nobody listens at [::1]:5: is the server running, and is this its port?",
        ),
        (
            REFUSED + "ipv4:1.2.3.4:5: Failed to connect to remote host: No route to host",
            "1.2.3.4:5: Failed to connect to remote host: No route to host",
        ),
        (
            "errors resolving x:1: [field:hostname lookup error:address lookup failed for x:1: Z]",
            "the name cannot be found: is the target HOST:PORT?",
        ),
        (
            REFUSED + "ipv4:127.0.0.1:5: Tls handshake failed (E): error:1f7:WRONG_VERSION_NUMBER",
            "127.0.0.1:5 does not speak TLS: leave TLS out, or is the port wrong?",
        ),
        ("Stream removed (Socket closed)", "the server went away in mid-call"),
        ("of a kind unheard of", "of a kind unheard of"),
    ],
)
def test_whom_nobody_reached_is_told_why_in_plain_words(message: str, words: str) -> None:
    error = error_from_status(grpc.StatusCode.UNAVAILABLE, message, b"", request_id="")
    assert isinstance(error, escalade.Unreachable)
    assert error.message == words


def test_details_are_read_in_any_order() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(timedelta(seconds=3))
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="task.type", description="unknown")
    quota = error_details_pb2.QuotaFailure()
    quota.violations.add(subject="openai/gpt-4o-mini", description="50 of 50 today")
    details = [quota, bad, retry, info("RATE_LIMITED"), error_details_pb2.DebugInfo(detail="x")]

    for order in (details, details[::-1]):
        error = error_from_status(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "no", details_of(*order), request_id=""
        )
        assert isinstance(error, escalade.RateLimited)
        assert error.retry_after == timedelta(seconds=3)
        assert error.violations == (
            escalade.Violation("task.type", "unknown"),
            escalade.Violation("openai/gpt-4o-mini", "50 of 50 today"),
        )


def test_what_failed_said_survives_lost_trailers() -> None:
    failed = Failed("BUDGET_EXHAUSTED", "the cap is reached", "", escalation_pb2.Report(story="s"))
    error = error_from_status(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "metadata too large", b"", request_id="", failed=failed
    )

    assert isinstance(error, escalade.BudgetExhausted)
    assert (error.message, error.story) == ("the cap is reached", "s")


def test_an_error_that_is_no_call_is_a_transport_error() -> None:
    error = error_from_rpc(grpc.RpcError("odd"), request_id="r")

    assert type(error) is escalade.TransportError
    assert str(error) == "odd [request r]"


@pytest.mark.parametrize(
    "kind",
    [escalade.EscaladeError, *subclasses(escalade.EscaladeError)],
    ids=lambda kind: str(kind.__name__),
)
def test_errors_survive_a_process_boundary(kind: type[escalade.EscaladeError]) -> None:
    report = escalation_pb2.Report(story="s")
    error = kind("no\x1b[31m\nway", Facts(reason="X", request_id="r", report=report))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(copy) is kind
    assert str(copy) == str(error) == "no [31m way [X, request r]"
    assert (copy.reason, copy.story, copy.cost_nanos) == ("X", "s", 0)
    assert repr(copy) == f"{kind.__name__}({str(error)!r})"


def test_an_error_without_a_report_paid_nothing() -> None:
    error = escalade.UsageError("wrong")

    assert isinstance(error, ValueError)
    assert (error.attempts, error.cost_nanos, error.story, error.code) == ((), 0, "", None)
    assert str(error) == "wrong"
