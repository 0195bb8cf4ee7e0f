import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core import ledger
from escalade_server.core.catalog import Period
from escalade_server.core.ledger import Room
from escalade_server.core.standing import Balance
from escalade_server.core.window import SLICES, SPAN_MS, slice_at, slides, total

SLIDING = [Period.SECOND, Period.MINUTE, Period.HOUR]


def test_up_to_an_hour_slides() -> None:
    assert [period for period in Period if slides(period)] == SLIDING


@given(st.sampled_from(SLIDING), st.integers(0, 1 << 45))
def test_a_slice_holds_its_instant_and_counts_a_window_and_a_slice(
    period: Period, now_ms: int
) -> None:
    window = slice_at(period, now_ms)
    width = SPAN_MS[period] // SLICES
    assert window.starts_ms <= now_ms < window.starts_ms + width
    assert window.ends_ms == window.starts_ms + SPAN_MS[period] + width
    assert slice_at(period, window.starts_ms + width).starts_ms == window.starts_ms + width


@pytest.mark.parametrize("period", SLIDING)
@given(
    start_ms=st.integers(0, 10**12),
    steps=st.lists(st.integers(0, 400), min_size=1, max_size=80),
    limit=st.integers(1, 6),
)
def test_no_window_of_that_length_ever_exceeds_the_limit(
    period: Period, start_ms: int, steps: list[int], limit: int
) -> None:
    """Calls come at any instants; what is admitted is looked at in every window there is."""
    span = SPAN_MS[period]
    slices: dict[int, Balance] = {}
    admitted: list[int] = []
    now_ms = start_ms
    for step in steps:
        now_ms += step * span // 1_000
        window = slice_at(period, now_ms)
        fresh = Balance(window.id, 0, 0, window.ends_ms)
        sum_ = total(slices.values(), now_ms) or fresh
        if ledger.room(sum_, limit, 1) is Room.FITS:
            part = slices.get(window.starts_ms, fresh)
            slices[window.starts_ms] = ledger.settle(ledger.hold(part, 1), 1, 1)
            admitted.append(now_ms)
        else:
            assert sum_.ends_ms > now_ms, "some room always comes back later"
    for begin in admitted:
        assert sum(begin <= instant < begin + span for instant in admitted) <= limit


def test_the_total_is_of_what_still_counts() -> None:
    parts = [Balance("minute", 1, 0, 10), Balance("minute", 2, 3, 20), Balance("minute", 0, 0, 15)]
    assert total(parts, 9) == Balance("minute", 3, 3, 10)
    assert total(parts, 10) == Balance("minute", 2, 3, 20)
    assert total(parts, 20) is None
    assert total([], 0) is None
