"""Reasons, statuses and details."""

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from escalade.v1 import error_pb2
from escalade_server.api.convert_out import ERROR_REASONS
from escalade_server.api.status import (
    DETAILS_BYTES_MAX,
    STATUS,
    Refusal,
    not_built,
    refusal_of,
    status_of,
    trailers_of,
)
from escalade_server.core.facts import ErrorReason, Failed
from escalade_server.core.standing import Cause, Verdict, VerdictClass
from escalade_server.core.trace import Skip
from tests.api.world import MODELS, NOW_MS, failed, report


def test_every_reason_on_the_wire_has_one_status() -> None:
    values = {v.number for v in error_pb2.ErrorReason.DESCRIPTOR.values} - {0}

    assert set(STATUS) == values
    assert grpc.StatusCode.OK not in STATUS.values()


def test_every_reason_of_the_core_has_a_reason_on_the_wire() -> None:
    assert set(ERROR_REASONS) == set(ErrorReason)
    assert len(set(ERROR_REASONS.values())) == len(ErrorReason)


def test_the_comment_of_each_reason_names_its_status() -> None:
    """The proto promises a status in capitals; the table keeps it."""
    promised = {
        "REQUEST_INVALID": "INVALID_ARGUMENT",
        "REQUEST_REJECTED": "INVALID_ARGUMENT",
        "NO_ELIGIBLE_MODEL": "FAILED_PRECONDITION",
        "BUDGET_EXHAUSTED": "RESOURCE_EXHAUSTED",
        "RATE_LIMITED": "RESOURCE_EXHAUSTED",
        "ALL_MODELS_FAILED": "UNAVAILABLE",
        "DEADLINE_REACHED": "DEADLINE_EXCEEDED",
        "CANCELLED": "CANCELLED",
        "INTERRUPTED": "UNAVAILABLE",
        "CONSENT_REQUIRED": "FAILED_PRECONDITION",
        "QUALITY_NOT_MET": "FAILED_PRECONDITION",
        "TRIGGER_NOT_MET": "FAILED_PRECONDITION",
        "REQUEST_IN_PROGRESS": "ABORTED",
        "ALREADY_ANSWERED": "ALREADY_EXISTS",
        "TOO_MANY_WAITERS": "RESOURCE_EXHAUSTED",
        "DRAINING": "UNAVAILABLE",
        "LEDGER_UNAVAILABLE": "UNAVAILABLE",
        "BUG": "INTERNAL",
    }

    assert {r.name: STATUS[ERROR_REASONS[r]].name for r in ErrorReason} == promised


def details(refusal: Refusal, kind: type[Message]) -> Message | None:
    for packed in status_of(refusal).details:
        made = kind()
        if packed.Unpack(made):
            return made
    return None


@pytest.mark.parametrize("reason", list(ErrorReason))
def test_every_failure_becomes_a_status_with_error_info(reason: ErrorReason) -> None:
    refusal = refusal_of(failed(reason), NOW_MS)
    info = details(refusal, error_details_pb2.ErrorInfo)
    trailers = dict(trailers_of(refusal, status_of(refusal)))

    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (reason.name, "escalade.v1")
    pushed_back = refusal.code in (
        grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED,
    )  # fmt: skip
    assert ("grpc-retry-pushback-ms" in trailers) == pushed_back


def test_a_used_up_quota_is_named_by_counter() -> None:
    skips = (
        Skip("free", MODELS[0], Verdict(VerdictClass.RATE, Cause.WINDOW_FULL, "50 of 50")),
        Skip("free", MODELS[1], Verdict(VerdictClass.POLICY, Cause.CONSTRAINT, "denied")),
    )
    made = Failed(ErrorReason.RATE_LIMITED, "all are out", report(skips=skips), None)
    quota = details(refusal_of(made, NOW_MS), error_details_pb2.QuotaFailure)

    assert isinstance(quota, error_details_pb2.QuotaFailure)
    assert [(v.subject, v.description) for v in quota.violations] == [(MODELS[0].key, "50 of 50")]


def test_an_instant_in_the_past_means_now() -> None:
    refusal = refusal_of(failed(ErrorReason.RATE_LIMITED, retry_at_ms=NOW_MS - 5), NOW_MS)

    assert refusal.delay_ms == 0


def test_details_stay_within_4_kib_and_tell_how_many_were_cut() -> None:
    """P6: more is lost on the way, and the code with it."""
    violations = tuple((f"messages[{n}].parts[0].text", "ä" * 300) for n in range(500))
    refusal = Refusal(error_pb2.ERROR_REASON_REQUEST_INVALID, "x" * 10_000, violations=violations)
    status = status_of(refusal)
    info = details(refusal, error_details_pb2.ErrorInfo)
    bad = details(refusal, error_details_pb2.BadRequest)

    assert status.ByteSize() <= DETAILS_BYTES_MAX
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert bad.field_violations
    assert int(info.metadata["omitted"]) + len(bad.field_violations) == 500


def test_long_metadata_and_messages_fit_too() -> None:
    metadata = tuple((f"key{n}", "ß" * 5_000) for n in range(20))
    status = status_of(
        Refusal(error_pb2.ERROR_REASON_BUDGET_EXHAUSTED, "ß" * 5_000, metadata=metadata)
    )

    assert status.ByteSize() <= DETAILS_BYTES_MAX


def test_what_is_not_built_is_named() -> None:
    refusal = not_built("task.dry_run", "sampling.top_k")

    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
    assert "task.dry_run, sampling.top_k" in refusal.message
