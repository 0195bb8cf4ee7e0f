"""Route: the caller calls the selected model itself, and reports (R31-R33)."""

from dataclasses import replace

import pytest

from escalade_server.core.calling import LEASE_MS
from escalade_server.core.commands import (
    CallModel,
    CancelCall,
    ReportHealth,
    Reserve,
    SetBench,
    Settle,
)
from escalade_server.core.events import Finish, LeaseExtended, OutcomeReported, ReportsEnded
from escalade_server.core.facts import (
    Alert,
    AlertKind,
    ErrorReason,
    Escalated,
    EscalationReason,
    Fallback,
    Selected,
)
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.standing import Bench, Standing, own_bench
from escalade_server.core.task import Basis, Delivery, FinishReason, Request, Task, Usage
from escalade_server.core.trace import AttemptStatus
from tests.core.builders import T0, request, three_layers
from tests.core.play import Play

STOP = Finish(FinishReason.STOP)
PAID = Task(type="debug", files=0, tokens=0)


def routed(task: Task | None = None, *, trusted: bool = True) -> Play:
    asked: Request = replace(
        request(task=task, deadline_ms=T0 + 3_600_000),
        delivery=Delivery.ROUTE,
        trusted_reports=trusted,
        agent="crawler",
    )
    play = Play(three_layers(), asked)
    play.start()
    play.grant()
    return play


def test_the_selection_is_handed_over_and_nothing_is_called() -> None:
    play = routed()

    (selected,) = play.told(Selected)
    assert selected.expires_ms == T0 + LEASE_MS
    assert not [c for c in play.log if isinstance(c, CallModel)]


def test_r32_a_report_is_settled_and_ends_the_task() -> None:
    play = routed(PAID)
    play.feed(OutcomeReported(1, Usage(100, 10), STOP, model="glm-5-0711"))
    play.settled()

    attempt = play.finished.report.attempts[0]
    assert (attempt.status, attempt.basis) == (AttemptStatus.OK, Basis.REPORTED)
    assert attempt.list_nanos == 100 * 150 + 10 * 600
    assert attempt.reported_model == "glm-5-0711"


def test_r32_without_usage_the_reserve_is_booked() -> None:
    play = routed(PAID)
    play.feed(OutcomeReported(1, None, STOP))

    assert play.last(Settle).basis is Basis.RESERVED
    assert play.last(Settle).nanos > 0


def test_r32_a_failure_goes_on_to_the_next_selection() -> None:
    play = routed()
    play.feed(OutcomeReported(1, failure=Failure(FailureClass.QUOTA_WINDOW, "used up")))
    play.grant()

    assert play.last(SetBench).key == "openai/default/mini"
    assert [f.to_model.id for f in play.told(Fallback)] == ["flash"]
    assert [s.attempt for s in play.told(Selected)] == [1, 2]


def test_r32_a_rejected_answer_is_charged_and_escalates() -> None:
    play = routed()
    play.feed(OutcomeReported(1, Usage(100, 10), rejected="json_schema"))
    play.grant()

    assert play.log[-1:] == [] or play.last(Settle).basis is Basis.REPORTED
    assert play.told(Escalated)[0].reason is EscalationReason.QUALITY


def test_r32_not_sent_releases_and_goes_on() -> None:
    play = routed(PAID)
    play.feed(OutcomeReported(1, failure=Failure(FailureClass.UNKNOWN, "not sent", sent=False)))

    settle = play.last(Settle)
    assert (settle.requests, settle.nanos, settle.hold_until_ms) == (0, 0, None)
    play.grant()
    assert play.told(Selected)[-1].model.id == "m2"
    assert not [c for c in play.log if isinstance(c, ReportHealth)]


def test_r32_an_expired_lease_is_booked_at_the_reserve() -> None:
    play = routed(PAID)
    play.passes(LEASE_MS)

    assert play.last(Settle).basis is Basis.RESERVED
    assert play.failed.reason is ErrorReason.DEADLINE_REACHED
    assert play.failed.report.attempts[0].status is AttemptStatus.UNREPORTED


def test_r32_progress_extends_the_lease() -> None:
    play = routed()
    play.passes(LEASE_MS - 1)
    play.feed(LeaseExtended(1))
    play.passes(LEASE_MS - 1)

    assert play.outcome is None


def test_r31_half_close_ends_well_with_the_attempt_unreported() -> None:
    play = routed(PAID)
    play.feed(ReportsEnded())
    play.settled()

    report = play.finished.report
    assert report.attempts[0].status is AttemptStatus.UNREPORTED
    assert report.attempts[0].basis is Basis.RESERVED
    assert report.answered is None


def test_r32_a_caller_that_vanishes_is_booked_and_nothing_is_cancelled() -> None:
    play = routed(PAID)
    play.leaves()

    assert play.last(Settle).basis is Basis.RESERVED
    assert not [c for c in play.log if isinstance(c, CancelCall)]
    play.settled()
    assert play.cascade.closed


def test_r33_a_report_of_a_bad_credential_is_an_alert_and_no_shared_state() -> None:
    play = routed()
    play.feed(OutcomeReported(1, failure=Failure(FailureClass.AUTH, "key refused")))

    assert play.told(Alert)[0].kind is AlertKind.AUTH
    assert not [c for c in play.log if isinstance(c, SetBench)]


def test_r33_untrusted_reports_bench_a_model_for_their_own_agent_only() -> None:
    play = routed(trusted=False)
    play.feed(OutcomeReported(1, failure=Failure(FailureClass.QUOTA_WINDOW, "used up")))
    play.grant()

    (bench,) = [c for c in play.log if isinstance(c, SetBench)]
    assert bench.key == own_bench("crawler", "openai/default/mini")
    assert not [c for c in play.log if isinstance(c, ReportHealth)]
    assert play.told(Selected)[-1].model.id == "flash"


@pytest.mark.parametrize(("agent", "first"), [("crawler", "flash"), ("editor", "mini")])
def test_r33_the_bench_of_an_agent_holds_for_it_alone(agent: str, first: str) -> None:
    key = own_bench("crawler", "openai/default/mini")
    bench = Bench(T0 + 60_000, FailureClass.QUOTA_WINDOW, "used up")
    play = Play(three_layers(), replace(request(), agent=agent))
    play.start(Standing(benches={key: bench}))

    assert play.last(Reserve).candidates[0].model.id == first


def test_a_late_report_of_another_attempt_changes_nothing() -> None:
    play = routed()
    before = len(play.log)
    play.feed(OutcomeReported(7, Usage(1, 1), STOP))

    assert len(play.log) == before


def test_r31_half_close_after_the_last_report_takes_nothing_back() -> None:
    play = routed(PAID)
    play.feed(OutcomeReported(1, Usage(100, 10), STOP))
    play.feed(ReportsEnded())
    play.settled()

    assert play.finished.report.attempts[0].status is AttemptStatus.OK


def test_r31_half_close_between_two_selections_ends_the_task() -> None:
    play = routed()
    play.feed(OutcomeReported(1, failure=Failure(FailureClass.OVERLOADED, "busy")))
    play.feed(ReportsEnded())

    assert play.failed.reason is ErrorReason.CANCELLED


def test_r33_a_refusal_is_an_answer_here_too() -> None:
    play = routed(PAID)
    play.feed(OutcomeReported(1, failure=Failure(FailureClass.CONTENT, "filtered", code="hate")))
    play.settled()

    assert play.finished.answer.finish is FinishReason.CONTENT_FILTER
    assert play.finished.answer.finish_detail == "hate"


def test_r32_the_reservation_knows_its_caller() -> None:
    order = routed().last(Reserve)

    assert (order.agent, order.routed) == ("crawler", True)


@pytest.mark.parametrize("usage", [Usage(10**6, 1), Usage(1, 1, 2), Usage(-1, 1), Usage(1, 10**6)])
def test_r32_figures_beyond_belief_are_booked_at_the_reserve(usage: Usage) -> None:
    play = routed(PAID)
    held = play.last(Reserve).candidates[0]
    play.feed(OutcomeReported(1, usage, STOP, digest="d"))
    settle = play.last(Settle)

    assert (settle.basis, settle.nanos, settle.tokens) == (
        Basis.RESERVED, held.nanos, held.tokens,
    )  # fmt: skip
    assert settle.digest == "d"
