import pytest

from escalade_server.core.experience import class_of
from escalade_server.core.failure import (
    ANSWERS,
    DAY_MS,
    HOUR_MS,
    NEVER_MS,
    TABLE,
    Charge,
    Failure,
    FailureClass,
    Scope,
    cooldown,
)
from escalade_server.core.standing import VerdictClass
from tests.core.builders import T0

C = FailureClass


@pytest.mark.parametrize("cls", FailureClass)
def test_the_table_is_total(cls: FailureClass) -> None:
    row = TABLE[cls]

    assert (row.cooldown_ms is None) == (row.scope is Scope.NONE)
    assert class_of(cls) in {VerdictClass.RATE, VerdictClass.MONEY, VerdictClass.DOWN}
    assert not (row.terminal and (row.counts_for_breaker or row.retry_same))
    assert list(TABLE) == list(FailureClass)


def test_r8_only_what_may_pass_is_retried() -> None:
    retried = {cls for cls, row in TABLE.items() if row.retry_same}

    assert retried == {C.OVERLOADED, C.OUTAGE, C.PROTOCOL}  # a short 429 is sat out instead


def test_c5_a_doubtful_outcome_is_held_and_a_refusal_costs_nothing() -> None:
    doubtful = {cls for cls, row in TABLE.items() if row.charge is Charge.UNCERTAIN}

    assert doubtful == {C.OUTAGE, C.TIMEOUT, C.PROTOCOL, C.UNKNOWN, C.CANCELLED}


def test_answers_are_not_failures_of_a_model() -> None:
    assert set(ANSWERS) == {C.CONTENT, C.REFUSAL}
    assert all(TABLE[cls].terminal and TABLE[cls].scope is Scope.NONE for cls in ANSWERS)


@pytest.mark.parametrize(
    ("failure", "on_limit_ms", "expected"),
    [
        (Failure(C.OUTAGE, ""), None, None),
        (Failure(C.OUTAGE, "", reset_at_ms=T0 + 9), None, None),
        (Failure(C.QUOTA_WINDOW, "", reset_at_ms=T0 + 9), 5, (Scope.MODEL, T0 + 9)),
        (Failure(C.QUOTA_WINDOW, "", reset_at_ms=T0 - 9), 5, (Scope.MODEL, T0 + 5)),
        (Failure(C.QUOTA_WINDOW, "", reset_at_ms=T0), None, (Scope.MODEL, T0 + HOUR_MS)),
        (Failure(C.RATE_SHORT, "", reset_at_ms=T0 - 9), 5, (Scope.MODEL, T0)),
        (Failure(C.QUOTA_WINDOW, ""), DAY_MS, (Scope.MODEL, T0 + DAY_MS)),
        (Failure(C.QUOTA_WINDOW, ""), None, (Scope.MODEL, T0 + HOUR_MS)),
        (Failure(C.RATE_SHORT, ""), DAY_MS, (Scope.MODEL, T0 + 2_000)),
        (Failure(C.QUOTA_WINDOW, "", scope=Scope.ACCOUNT), 5, (Scope.ACCOUNT, T0 + 5)),
        (Failure(C.QUOTA_WINDOW, "", scope=Scope.NONE), 5, None),
        (Failure(C.AUTH, ""), None, (Scope.ACCOUNT, NEVER_MS)),
    ],
)
def test_r9_what_a_failure_sets_aside_and_until_when(
    failure: Failure, on_limit_ms: int | None, expected: tuple[Scope, int] | None
) -> None:
    assert cooldown(failure, on_limit_ms, T0) == expected
