"""Rows of the cascade's table that are seldom reached: no time to wait, late grants, gates."""

from dataclasses import replace

from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import CallModel, End, Reserve, Settle
from escalade_server.core.events import (
    ChunkArrived,
    ReasoningDelta,
    ReportsEnded,
    Reserved,
    StoreFailed,
)
from escalade_server.core.facts import ErrorReason, Retracted, Waiting
from escalade_server.core.standing import Balance, Standing
from escalade_server.core.task import Task
from tests.core.builders import DAY, T0, catalog, model, request, three_layers
from tests.core.play import Play

HELD = Standing(
    {
        f"requests/day:{name}": Balance("today", 0, 50, DAY)
        for name in ("openai/default/mini", "google/default/flash")
    }
)


def test_r14_without_time_to_wait_for_holds_the_layer_is_crossed_at_once() -> None:
    play = Play(three_layers(), request(deadline_ms=T0 + 20))
    play.start(HELD)

    assert play.told(Waiting) == []
    assert [c.model.id for c in play.last(Reserve).candidates] == ["glm", "m2"]


def test_p20_a_grant_that_nobody_asked_for_is_ignored() -> None:
    play = Play(three_layers(), request())
    play.start()
    play.grant()
    before = len(play.log)

    play.feed(Reserved(1, 0))
    play.feed(Reserved(9, 1))

    assert len(play.log) == before


def ladder(count: int) -> Catalog:
    return catalog(*((f"layer-{i}", (model(f"p{i}/m{i}"),), ()) for i in range(count)))


def test_r21_at_most_two_failed_gates_escalate() -> None:
    play = Play(ladder(5), request(task=Task(type="whatever", files=0, tokens=0)))
    play.start()
    for _ in range(3):
        play.grant()
        play.says(" ")
        play.finishes()
        play.settled()

    assert play.failed.reason is ErrorReason.QUALITY_NOT_MET
    assert len([c for c in play.log if isinstance(c, CallModel)]) == 3


def test_r21_an_answer_of_reasoning_alone_is_retracted_and_is_no_interruption() -> None:
    play = Play(ladder(1), request(task=Task(type="whatever", files=0, tokens=0)))
    play.start()
    play.grant()
    play.feed(ChunkArrived(1, (ReasoningDelta("hm"),)))
    play.finishes()

    assert len(play.told(Retracted)) == 1
    assert play.failed.reason is ErrorReason.QUALITY_NOT_MET


def test_r25_a_drained_call_is_settled_after_the_end_of_its_task() -> None:
    billed = replace(model("a/b"), bills_after_cancel=True)
    play = Play(catalog(("only", (billed,), ())), request())
    play.start()
    play.grant()
    play.says("Hi")
    play.leaves()
    assert play.failed.reason is ErrorReason.CANCELLED
    assert not [c for c in play.log if isinstance(c, Settle)]
    assert play.cascade.wake_at_ms == T0 + 60_000, "the drain has its time"

    play.finishes()
    play.settled()

    assert play.last(Settle).tokens == 110
    assert play.cascade.closed
    assert len([c for c in play.log if isinstance(c, End)]) == 1


def test_a_ledger_that_fails_after_its_caller_left_ends_nothing_twice() -> None:
    play = Play(ladder(1), request())
    play.start()
    play.leaves()
    play.feed(StoreFailed(1, "disk full"))
    play.settled()

    assert play.failed.reason is ErrorReason.CANCELLED
    assert len([c for c in play.log if isinstance(c, End)]) == 1
    assert play.cascade.closed


def test_r32_reports_that_end_before_a_choice_end_the_task() -> None:
    play = Play(ladder(1), request())
    play.start()
    play.feed(ReportsEnded())

    assert play.failed.reason is ErrorReason.CANCELLED
