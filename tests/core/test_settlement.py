from dataclasses import replace

import pytest

from escalade_server.core.attempt import Ending, Live, Over
from escalade_server.core.catalog import Billing, Model
from escalade_server.core.events import ChunkArrived, Finish
from escalade_server.core.failure import Charge, Failure, FailureClass
from escalade_server.core.money import cost_nanos
from escalade_server.core.need import Need
from escalade_server.core.settlement import (
    NOT_SENT,
    UNCERTAIN_MS,
    Booking,
    answered,
    broken,
    late,
    unread,
)
from escalade_server.core.task import Basis, Constraints, FinishReason, Usage
from escalade_server.core.trace import AttemptStatus
from tests.core.builders import PRICE, T0, cap, model, request
from tests.core.parts import live, need, spoken

FREE = model("a/free")
METERED = model("a/metered", billing=Billing.METERED)
CAPPED = model("a/capped", billing=Billing.METERED, counters=(cap("a", 10**12),))
PLAN = model("a/plan", billing=Billing.SUBSCRIPTION)
NEED = need()


def told(usage: Usage | None, each: Model = METERED, cost_nanos: int | None = None) -> Live:
    attempt = spoken(live(each, NEED), "word " * 8)
    finish = Finish(FinishReason.STOP)
    attempt.take(ChunkArrived(1, (), finish, usage, "a/metered-2026", cost_nanos), T0 + 900)
    return attempt


def test_c5_reported_usage_is_booked_as_it_is() -> None:
    usage = Usage(40, 8)

    found = answered(told(usage), NEED)

    assert found == Booking(1, usage, cost_nanos(usage, PRICE), Basis.REPORTED)
    assert found.order(told(usage), T0).hold_until_ms is None


@pytest.mark.parametrize(
    ("told_nanos", "booked"),
    [(0, 0), (77, 77), (-1, None), (10**15, None), (None, None)],
)
def test_c5_the_providers_own_cost_wins_if_it_can_be_believed(
    told_nanos: int | None, booked: int | None
) -> None:
    usage = Usage(40, 8)

    found = answered(told(usage, cost_nanos=told_nanos), NEED)

    assert found.nanos == (cost_nanos(usage, PRICE) if booked is None else booked)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        Usage(-1, 5),
        Usage(5, -1),
        Usage(5, 5, cached_tokens=-1),
        Usage(5, 5, cache_write_tokens=-1),
        Usage(5, 5, cached_tokens=6),
        Usage(5, 5, cached_tokens=3, cache_write_tokens=3),
        Usage(10 * NEED.input_bound + 1, 5),
        Usage(5, 10 * 4_096 + 1),
    ],
)
def test_u26_usage_that_cannot_be_is_counted_by_ourselves(usage: Usage | None) -> None:
    found = answered(told(usage), NEED)

    assert found.basis is Basis.ESTIMATED
    assert found.usage == Usage(NEED.input_estimate * 11 // 10, 40 * 11 // 40)


@pytest.mark.parametrize(
    ("each", "wanted"),
    [
        (CAPPED, NEED),
        (METERED, need(req=request(constraints=Constraints(spend_limit_nanos=10**9)))),
    ],
)
def test_r13_where_a_money_cap_is_at_stake_bounds_are_booked(each: Model, wanted: Need) -> None:
    found = answered(told(None, each), wanted)

    assert found.usage == Usage(wanted.input_bound, 40 + 256)
    assert found.nanos == cost_nanos(found.usage, PRICE)


@pytest.mark.parametrize("each", [CAPPED, METERED])
def test_r13_a_count_of_ours_never_exceeds_the_reserve(each: Model) -> None:
    small = replace(each, output_tokens_max=2)
    attempt = spoken(live(small, NEED), "x" * 100_000)

    found = broken(attempt, NEED, Charge.UNCERTAIN, sent=True)

    assert found.nanos == attempt.candidate.nanos


def test_c5_what_was_not_sent_costs_nothing() -> None:
    assert broken(live(METERED, NEED), NEED, Charge.UNCERTAIN, sent=False) is NOT_SENT


@pytest.mark.parametrize("charge", Charge)
@pytest.mark.parametrize("each", [FREE, METERED, PLAN])
def test_c5_a_doubtful_outcome_of_a_paid_model_is_held_in_full(each: Model, charge: Charge) -> None:
    attempt = live(each, NEED)

    found = broken(attempt, NEED, charge, sent=True)

    if charge is Charge.UNCERTAIN and each is not FREE:
        assert found == Booking(1, Usage(), attempt.candidate.nanos, Basis.RESERVED, hold=True)
        assert found.order(attempt, T0).hold_until_ms == T0 + UNCERTAIN_MS
    else:
        assert found == Booking(1, Usage(), 0, Basis.NONE)


def test_c5_broken_mid_stream_costs_what_had_come() -> None:
    attempt = spoken(live(METERED, NEED), "word " * 8)

    found = broken(attempt, NEED, Charge.NOTHING, sent=True)

    assert (found.basis, found.usage.output_tokens) == (Basis.ESTIMATED, 11)


def test_c5_broken_after_its_usage_was_told_costs_that() -> None:
    found = broken(told(Usage(40, 8)), NEED, Charge.UNCERTAIN, sent=True)

    assert (found.basis, found.usage) == (Basis.REPORTED, Usage(40, 8))


def test_r25_what_is_billed_to_its_end_unread_is_booked_in_full() -> None:
    attempt = spoken(live(replace(METERED, bills_after_cancel=True), NEED), "word")
    reserve = Booking(1, Usage(), attempt.candidate.nanos, Basis.RESERVED)

    assert unread(attempt) == reserve
    assert broken(attempt, NEED, Charge.UNCERTAIN, sent=True) == reserve


@pytest.mark.parametrize(("each", "share"), [(FREE, 0), (PLAN, 0), (METERED, 1)])
def test_r15_only_metered_models_charge_their_list_value(each: Model, share: int) -> None:
    attempt = told(Usage(40, 8), each)
    order = answered(attempt, NEED).order(attempt, T0)

    assert order.nanos == cost_nanos(Usage(40, 8), PRICE)
    assert order.charged_nanos == order.nanos * share
    assert (order.reservation_id, order.requests, order.tokens) == ("t.1", 1, 48)


def test_an_attempt_is_written_down_with_the_figures_it_is_booked_with() -> None:
    attempt = told(Usage(40, 8))
    failure = Failure(FailureClass.OUTAGE, "answered 503", http_status=503)

    found = answered(attempt, NEED).record(attempt, AttemptStatus.FAILED, T0 + 1_000, failure)

    assert (found.number, found.model, found.reported_model) == (1, METERED, "a/metered-2026")
    assert (found.started_ms, found.first_delta_ms, found.ended_ms) == (T0, T0 + 100, T0 + 1_000)
    assert (found.failure, found.http_status, found.detail) == (
        FailureClass.OUTAGE, 503, "answered 503",
    )  # fmt: skip
    assert (found.usage, found.list_nanos, found.basis) == (
        Usage(40, 8), cost_nanos(Usage(40, 8), PRICE), Basis.REPORTED,
    )  # fmt: skip
    assert found.finish is FinishReason.STOP
    plain = NOT_SENT.record(live(METERED, NEED), AttemptStatus.NOT_SENT, T0)
    assert (plain.finish, plain.failure, plain.http_status) == (None, None, 0)


FAR = Usage(10**9, 10**9)
WORTH = cost_nanos(Usage(40, 8), PRICE)
UNSENT = Failure(FailureClass.OUTAGE, "no connection", sent=False)
BUSY = Failure(FailureClass.OVERLOADED, "busy")
SLOW = Failure(FailureClass.TIMEOUT, "slow")
FILTER = Failure(FailureClass.CONTENT, "filtered")


@pytest.mark.parametrize(
    ("end", "usage", "failure", "requests", "nanos", "basis", "status"),
    [
        (Ending.WHOLE, Usage(40, 8), None, 1, WORTH, Basis.REPORTED, AttemptStatus.OK),
        (Ending.WHOLE, None, None, 1, None, Basis.RESERVED, AttemptStatus.OK),
        (Ending.WHOLE, FAR, None, 1, None, Basis.RESERVED, AttemptStatus.OK),
        (Ending.WHOLE, Usage(1, 1, 2), None, 1, None, Basis.RESERVED, AttemptStatus.OK),
        (Ending.WHOLE, None, FILTER, 1, 0, Basis.NONE, AttemptStatus.OK),
        (Ending.WHOLE, Usage(40, 8), FILTER, 1, WORTH, Basis.REPORTED, AttemptStatus.OK),
        (Ending.REJECTED, Usage(40, 8), BUSY, 1, WORTH, Basis.REPORTED, AttemptStatus.REJECTED),
        (Ending.REJECTED, None, BUSY, 1, None, Basis.RESERVED, AttemptStatus.REJECTED),
        (Ending.BROKEN, None, UNSENT, 0, 0, Basis.NONE, AttemptStatus.NOT_SENT),
        (Ending.BROKEN, None, BUSY, 1, 0, Basis.NONE, AttemptStatus.FAILED),
        (Ending.BROKEN, None, SLOW, 1, None, Basis.RESERVED, AttemptStatus.FAILED),
        (Ending.BROKEN, Usage(40, 8), SLOW, 1, WORTH, Basis.REPORTED, AttemptStatus.FAILED),
    ],
)
def test_r32_what_is_reported_late_is_booked_against_the_reserve(
    end: Ending, usage: Usage | None, failure: Failure | None, requests: int, nanos: int | None,
    basis: Basis, status: AttemptStatus,
) -> None:  # fmt: skip
    attempt = live(METERED, NEED)
    attempt.usage = usage
    booking, found = late(Over(attempt, end, failure))

    worth = attempt.candidate.nanos if nanos is None else nanos
    assert (booking.requests, booking.nanos, booking.basis, found) == (
        requests, worth, basis, status,
    )  # fmt: skip
    assert not booking.hold


def test_a_late_doubt_about_a_free_model_costs_nothing() -> None:
    booking, _ = late(Over(live(FREE, NEED), Ending.BROKEN, SLOW))

    assert (booking.requests, booking.nanos, booking.basis) == (1, 0, Basis.NONE)
