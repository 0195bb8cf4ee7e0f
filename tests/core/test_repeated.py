"""A request id that comes again (R27), as the core sees it."""

from dataclasses import replace

import pytest

from escalade_server.core.commands import CallModel, End, Reserve, Settle
from escalade_server.core.events import Repeated
from escalade_server.core.facts import ErrorReason, Failed, Finished
from escalade_server.core.failure import FailureClass
from escalade_server.core.task import Delivery, Request, Text, Usage
from escalade_server.core.trace import Figures
from tests.core.builders import request, three_layers
from tests.core.play import Play

NAMED = replace(request(), content="abc", agent="bot")
FIGURES = Figures(Usage(12, 34), 8_000, 7_000, 1, 2)


def begun(asked: Request = NAMED) -> Play:
    play = Play(three_layers(), asked)
    play.start()
    return play


def test_every_reservation_of_a_named_task_claims_its_id() -> None:
    play = begun()
    play.grant()
    play.fails(FailureClass.QUOTA_WINDOW)
    play.passes(0)
    orders = [order for order in play.log if isinstance(order, Reserve)]

    assert len(orders) == 2
    assert {(order.agent, order.request_id, order.content) for order in orders} == {
        ("bot", "r1", "abc")
    }


def test_a_task_of_our_own_id_claims_nothing_and_tells_no_figures() -> None:
    play = begun(request())
    play.grant()
    play.says("Hi")
    play.finishes()

    assert (play.last(Reserve).request_id, play.last(Reserve).content) == ("", "")
    assert play.last(Settle).figures is None


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (Repeated(1, "openai/default/mini", FIGURES), ErrorReason.ALREADY_ANSWERED),
        (Repeated(1), ErrorReason.REQUEST_INVALID),
    ],
)
def test_a_repeated_id_ends_the_task_before_any_call(before: Repeated, reason: ErrorReason) -> None:
    play = begun()
    play.feed(before)

    assert play.failed.reason is reason
    assert play.failed.retry_at_ms is None
    assert play.cascade.closed
    assert not [order for order in play.log if isinstance(order, CallModel | Settle)]


def test_an_answered_id_is_told_its_figures_and_who_answered() -> None:
    play = begun()
    play.feed(Repeated(1, "openai/default/mini", FIGURES))
    report = play.failed.report

    assert (report.usage, *FIGURES[1:]) == (
        Usage(12, 34), report.list_nanos, report.charged_nanos, report.started_ms, report.ended_ms
    )  # fmt: skip
    assert report.answered is not None
    assert report.answered.id == "mini"
    assert report.attempts == ()
    assert dict(play.failed.metadata)["charged_nano_usd"] == "7000"


def test_a_model_that_is_gone_since_is_told_by_its_name() -> None:
    play = begun()
    play.feed(Repeated(1, "openai/default/older", FIGURES))

    assert play.failed.report.answered is None
    assert "openai/default/older" in play.failed.detail


def test_a_repeated_id_after_its_caller_left_ends_nothing_twice() -> None:
    play = begun()
    play.leaves()
    play.feed(Repeated(1, "openai/default/mini", FIGURES))

    assert play.failed.reason is ErrorReason.CANCELLED
    assert len([order for order in play.log if isinstance(order, End)]) == 1
    assert play.cascade.closed


def test_the_figures_are_of_all_attempts_and_go_with_the_answer_alone() -> None:
    play = begun(replace(NAMED, delivery=Delivery.WHOLE))
    play.grant()
    play.fails(FailureClass.QUOTA_WINDOW)
    play.passes(0)
    play.grant()
    play.says("Hi")
    play.finishes()
    play.settled()
    failed, answered = (order for order in play.log if isinstance(order, Settle))
    ending = play.last(End).outcome

    assert failed.figures is None
    assert isinstance(ending, Finished)
    report = ending.report
    assert answered.figures is not None
    assert answered.figures[:3] == (report.usage, report.list_nanos, report.charged_nanos)


def test_an_answer_that_settles_when_its_caller_leaves_is_finished_all_the_same() -> None:
    play = begun()
    play.grant()
    play.says("Hi")
    play.finishes()
    play.leaves()
    assert not [order for order in play.log if isinstance(order, End)]
    play.settled()
    outcome = play.last(End).outcome

    assert isinstance(outcome, Finished)
    assert outcome.answer.parts == (Text("Hi"),)


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (NAMED, (Text("Hi"),)),
        (request(), ()),
    ],
    ids=["named", "not named"],
)
def test_a_stream_is_folded_only_where_its_answer_may_be_asked_for_again(
    asked: Request, parts: tuple[Text, ...]
) -> None:
    play = begun(asked)
    play.grant()
    play.says("Hi")
    play.finishes()
    play.settled()
    outcome = play.last(End).outcome

    assert not isinstance(outcome, Failed)
    assert outcome.answer.parts == parts
