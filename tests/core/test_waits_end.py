"""What ends a wait: its turn, a cut, the room that turns it away, a caller who leaves (R22)."""

from dataclasses import replace

import pytest

from escalade_server.core.commands import Reserve
from escalade_server.core.events import TurnCame, TurnedAway
from escalade_server.core.facts import ErrorReason, Escalated, EscalationReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Standing
from escalade_server.core.task import Constraints, OnInterruption
from tests.core.builders import DAY, catalog, model, per_day
from tests.core.play import FREE_FULL, Play, full
from tests.core.waiters import HOUR_MS, patient, queued, told, waiting


def test_its_turn_ends_the_wait_and_the_work_goes_on_with_the_time_it_had() -> None:
    play = waiting()
    play.passes(HOUR_MS)
    play.standing = Standing()
    play.feed(TurnCame(play.standing))
    play.grant()
    play.says("Hi")
    play.finishes()
    play.settled()

    assert play.reserved_at == [DAY]
    assert play.last(Reserve).reservation_id == "t.1"
    report = play.finished.report
    assert (report.waited_ms, report.ended_ms) == (HOUR_MS, DAY)
    assert "waited 3600 s" in report.story


def test_a_turn_that_finds_nothing_puts_it_off_and_only_news_is_told() -> None:
    play = waiting()
    play.passes(1_000)
    play.feed(TurnCame(FREE_FULL))
    play.passes(HOUR_MS)
    later = Standing({k: b._replace(ends_ms=DAY + 60_000) for k, b in FREE_FULL.balances.items()})
    play.feed(TurnCame(later))

    assert [(one.earliest_ms, one.repeated, one.notify) for one in queued(play)] == [
        (DAY, False, True), (DAY, True, False), (DAY + 60_000, False, False),
    ]  # fmt: skip


def test_after_the_wait_it_walks_from_its_start_and_says_so() -> None:
    def out(standing: Standing) -> Standing:
        spent = full("nanos/month:glm", "nanos/month:m2", spent=10**11)
        return Standing({**standing.balances, **spent.balances})

    play = waiting(patient(limits=Constraints(highest_layer="budget")), standing=FREE_FULL)
    play.grant()
    play.fails(FailureClass.QUOTA_WINDOW, 10 * HOUR_MS)
    play.standing = out(FREE_FULL)
    play.deny()
    assert [one.earliest_ms for one in queued(play)] == [DAY]
    play.passes(HOUR_MS)
    play.feed(TurnCame(Standing()))
    play.grant()

    changes = [(one.from_layer, one.to_layer, one.reason) for one in play.told(Escalated)]
    assert changes == [
        ("free", "budget", EscalationReason.RATE_LIMIT),
        ("budget", "free", EscalationReason.DOWNGRADE),
    ]


def test_r23_after_a_cut_it_ends_with_the_cuts_error() -> None:
    one = catalog(("free", (model("openai/mini", counters=(per_day("openai", "mini", 1),)),), ()))
    play = Play(one, replace(patient(), on_interruption=OnInterruption.RESTART))
    play.start()
    play.grant()
    play.says("Hal")
    play.standing = full("requests/day:openai/default/mini", spent=1)
    play.fails(FailureClass.OUTAGE)

    assert play.failed.reason is ErrorReason.INTERRUPTED
    assert not queued(play)


@pytest.mark.parametrize(
    ("reason", "retry_at_ms"), [(ErrorReason.TOO_MANY_WAITERS, DAY), (ErrorReason.DRAINING, None)]
)
def test_who_is_turned_away_ends_at_once(reason: ErrorReason, retry_at_ms: int | None) -> None:
    play = waiting()
    play.passes(1_000)
    play.feed(TurnedAway(reason, "no room"))

    assert (play.failed.reason, play.failed.retry_at_ms) == (reason, retry_at_ms)
    assert play.failed.report.waited_ms == 1_000
    assert len(told(play)) == (reason is ErrorReason.DRAINING), "one more token before the end"
    assert play.feed(TurnCame(Standing())) == []
    assert play.cascade.closed


def test_a_caller_who_leaves_its_wait_owes_nothing() -> None:
    play = waiting()
    play.leaves()

    assert play.failed.reason is ErrorReason.CANCELLED
    assert play.cascade.closed
    assert play.reserved_at == []
