"""What stands in at the end although it failed its gate, and what never does (R21)."""

from dataclasses import replace

from escalade_server.core.commands import Announce, Deliver, End, Settle
from escalade_server.core.events import Settled, SettleFailed
from escalade_server.core.facts import (
    ErrorReason,
    Escalated,
    EscalationKind,
    EscalationReason,
    Selected,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.gates import OnUnmet, Quality
from escalade_server.core.task import OnInterruption
from tests.core.builders import request
from tests.core.gated import DELIVER, WORDS, delivered, play, strategy
from tests.core.play import Play, full


def test_what_stands_in_is_announced_as_a_way_down_and_only_when_it_is_durable() -> None:
    game = play(strategy(DELIVER), "bad", *[FailureClass.OUTAGE] * 3)
    assert game.outcome is None
    assert not delivered(game)
    first, *_, second = [c for c in game.log if isinstance(c, Settle) and c.attempt == 1]
    assert replace(second, figures=None) == first, "it books what it was booked with"

    game.feed(Settled(1, game.standing))
    assert game.outcome is None, "one of its two settlements may be the first"
    orders = game.feed(Settled(1, game.standing))
    assert [type(order) for order in orders] == [Announce, Deliver, End]
    last = game.told(Escalated)[-1]
    assert (last.from_layer, last.to_layer) == ("premium", "free")
    assert (last.reason, last.kind) == (EscalationReason.DOWNGRADE, EscalationKind.DOWNGRADE)
    assert game.finished.report.layer_path == ("free", "budget", "premium", "free")
    assert "answered by mini, although it failed (was bad)" in game.finished.report.story


def test_what_cannot_be_marked_does_not_stand_in() -> None:
    game = play(strategy(replace(DELIVER, escalations_max=0)), "bad")
    game.feed(SettleFailed(1, "disk full"))

    assert game.failed.reason is ErrorReason.LEDGER_UNAVAILABLE
    assert not delivered(game)


def test_the_next_layer_exhausted_is_not_waited_for() -> None:
    empty = full("nanos/month:glm", "nanos/month:m2", "nanos/month:premium", spent=10**10)
    game = Play(strategy(Quality(WORDS)), request())
    game.start(empty)
    game.grant()
    game.says("bad")
    game.finishes()

    assert game.failed.reason is ErrorReason.QUALITY_NOT_MET


def test_text_that_broke_under_fail_is_never_followed_by_what_stands_in() -> None:
    quality = Quality(by_layer={"free": WORDS}, on_unmet=OnUnmet.DELIVER)
    asked = replace(request(), on_interruption=OnInterruption.FAIL)
    game = play(strategy(quality), "bad", req=asked)
    game.grant()
    game.says("half")
    game.fails(FailureClass.OUTAGE)

    assert game.failed.reason is ErrorReason.INTERRUPTED
    assert delivered(game) == [2]


def test_a_break_under_a_gate_is_no_interruption() -> None:
    game = Play(strategy(Quality(WORDS)), replace(request(), on_interruption=OnInterruption.FAIL))
    game.start()
    game.grant()
    game.says("half")
    game.fails(FailureClass.OUTAGE)
    game.grant()

    assert game.told(Selected)[-1].attempt == 2
