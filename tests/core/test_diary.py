from dataclasses import replace

from escalade_server.core import settlement
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.standing import Cause, Verdict, VerdictClass
from escalade_server.core.task import Basis, Usage
from escalade_server.core.trace import AttemptStatus, Figures, Skip
from tests.core.builders import T0, request, three_layers
from tests.core.parts import diary, live, skip

STRATEGY = three_layers()
MINI, FLASH = STRATEGY.layers[0].models


def test_the_latest_reason_for_each_model_is_kept() -> None:
    pages = diary(STRATEGY)
    held = skip(MINI, Verdict(VerdictClass.HELD, Cause.HELD))
    full = skip(MINI, Verdict(VerdictClass.RATE, Cause.WINDOW_FULL))
    other = skip(FLASH, Verdict(VerdictClass.DOWN))
    layer = Skip("free", None, Verdict(VerdictClass.TRIGGER_NOT_MET))

    pages.skip((held, other))
    pages.skip((full, layer))

    assert list(pages.skips.values()) == [full, other, layer]


def test_an_attempt_is_booked_and_owed_until_it_is_durable() -> None:
    pages = diary(STRATEGY)
    attempt = live(MINI, pages.look.need, 3)
    failure = Failure(FailureClass.OUTAGE, "broke")
    booking = settlement.Booking(1, Usage(4, 2), 7, Basis.REPORTED)

    order = pages.book(attempt, booking, AttemptStatus.FAILED, T0, failure)

    assert order == booking.order(attempt, T0)
    assert pages.attempts == [booking.record(attempt, AttemptStatus.FAILED, T0, failure)]
    assert pages.unsettled == [3]


def test_r27_a_callers_own_id_is_told_the_figures_of_all_attempts() -> None:
    claimed = replace(request(), content="hash")
    one, two = diary(STRATEGY, claimed), diary(STRATEGY, claimed)
    broke, good = live(MINI, one.look.need), live(FLASH, one.look.need, 2)
    lost = settlement.Booking(1, Usage(5), 3, Basis.RESERVED)
    won = settlement.Booking(1, Usage(4, 2), 7, Basis.REPORTED)

    alone = one.book(good, won, AttemptStatus.OK, T0 + 9)
    failed = two.book(broke, lost, AttemptStatus.FAILED, T0 + 5)
    after = two.book(good, won, AttemptStatus.OK, T0 + 9)

    assert alone.figures == Figures(Usage(4, 2), 7, 0, T0, T0 + 9)
    assert failed.figures is None
    assert after.figures == Figures(Usage(9, 2), 10, 0, T0, T0 + 9)
