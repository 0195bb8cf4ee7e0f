from escalade_server.core import settlement
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.standing import Cause, Verdict, VerdictClass
from escalade_server.core.task import Basis, Usage
from escalade_server.core.trace import AttemptStatus, Skip
from tests.core.builders import T0, three_layers
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
    assert pages.unsettled == {3}
