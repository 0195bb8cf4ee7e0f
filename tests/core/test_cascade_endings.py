"""How a task ends early: faults of the request, the caller, the clock, the ledger: a story each."""

import pytest

from escalade_server.core.commands import CallModel, CancelCall, End, Reserve, Settle
from escalade_server.core.events import ChunkArrived, Settled, SettleFailed, StoreFailed, TextDelta
from escalade_server.core.facts import ErrorReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Standing
from escalade_server.core.task import FinishReason, Task
from tests.core.builders import T0, catalog, model, request
from tests.core.play import begun, calling


@pytest.mark.parametrize("cls", [FailureClass.BAD_REQUEST, FailureClass.TOO_LARGE])
def test_a_fault_of_the_request_passes_once_and_never_escalates(cls: FailureClass) -> None:
    play = calling()
    play.fails(cls)

    assert play.failed.reason is ErrorReason.REQUEST_REJECTED
    assert len(play.failed.report.attempts) == 1


def test_a_filter_is_an_answer_and_not_laundered() -> None:
    play = calling()
    play.fails(FailureClass.CONTENT)
    play.settled()

    assert play.finished.answer.finish is FinishReason.CONTENT_FILTER


def test_the_caller_leaves_before_the_first_token() -> None:
    play = calling(request(task=Task(type="debug", files=0, tokens=0)))
    play.leaves()

    assert play.cancelled() == [CancelCall(1, drain=False)]
    settle = play.last(Settle)
    assert settle.hold_until_ms == T0 + 900_000, "the provider may have billed: held, then booked"
    assert play.failed.reason is ErrorReason.CANCELLED
    assert not play.cascade.closed
    play.settled()
    assert play.cascade.closed


def test_the_caller_leaves_while_reserving_and_nothing_is_charged() -> None:
    play = begun()
    play.leaves()
    assert not play.cascade.closed
    play.grant()

    assert play.last(Settle).requests == 0
    assert not [c for c in play.log if isinstance(c, CallModel)]
    play.settled()
    assert play.cascade.closed


def test_the_deadline_ends_the_task_once() -> None:
    play = calling()
    play.says("Slow")
    play.passes(60_000)

    assert play.failed.reason is ErrorReason.DEADLINE_REACHED
    assert len([c for c in play.log if isinstance(c, End)]) == 1


def test_c2_a_deadline_that_has_passed_reserves_nothing() -> None:
    play = begun(request(deadline_ms=T0))

    assert play.failed.reason is ErrorReason.DEADLINE_REACHED
    assert not [c for c in play.log if isinstance(c, Reserve)]


def test_late_news_is_ignored() -> None:
    play = calling()
    play.fails(FailureClass.OUTAGE)
    play.grant()
    before = len(play.log)
    play.feed(ChunkArrived(1, (TextDelta("late"),)))

    assert len(play.log) == before


def test_a_ledger_that_fails_ends_the_task_without_a_call() -> None:
    play = begun()
    play.feed(StoreFailed(1, "disk full"))

    assert play.failed.reason is ErrorReason.LEDGER_UNAVAILABLE
    assert play.failed.report.attempts == ()


@pytest.mark.parametrize("then", [Settled(1, Standing()), SettleFailed(1, "disk full")])
def test_s13_what_a_failed_ledger_may_hold_is_let_go(then: Settled | SettleFailed) -> None:
    play = begun()
    play.feed(StoreFailed(1, "timeout"))

    release = play.last(Settle)
    assert release.reservation_id == play.last(Reserve).reservation_id
    assert (release.requests, release.tokens, release.nanos) == (0, 0, 0)
    assert not play.cascade.closed, "it is not known yet whether it could be let go"
    play.feed(then)
    assert play.cascade.closed


def test_a_settlement_that_is_not_durable_is_no_good_ending() -> None:
    play = calling()
    play.says("Hi")
    play.finishes()
    play.feed(SettleFailed(1, "disk full"))

    assert play.failed.reason is ErrorReason.LEDGER_UNAVAILABLE


def test_attempts_are_bounded() -> None:
    many = catalog(("free", tuple(model(f"p{i}/m{i}") for i in range(12)), ()))
    play = begun(cat=many)
    while play.outcome is None:
        play.grant()
        play.fails(FailureClass.MODEL_GONE)

    assert len(play.failed.report.attempts) == 8
    assert play.failed.reason is ErrorReason.ALL_MODELS_FAILED
