import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core import ledger
from escalade_server.core.catalog import Billing, Counter, CounterScope, Model, Period, Unit
from escalade_server.core.commands import Candidate
from escalade_server.core.ledger import Amounts, Room
from escalade_server.core.money import CAP_NANOS_MAX, Price
from escalade_server.core.standing import Balance

amounts = st.integers(0, CAP_NANOS_MAX)


def counter(unit: Unit, limit: int) -> Counter:
    return Counter(unit.value, unit, Period.DAY, limit, CounterScope.MODEL, "")


def candidate(*counters: Counter) -> Candidate:
    model = Model(
        "p", "a", "m", "m", "openai", "free", 0, 7, frozenset(), counters, Price(0, 0), Billing.FREE
    )
    return Candidate(model, tokens=100, nanos=50, output_tokens_max=10)


def balance(spent: int, held: int, ends_ms: int = 9) -> Balance:
    return Balance("d", spent, held, ends_ms)


@pytest.mark.parametrize(
    ("spent", "held", "limit", "amount", "found"),
    [
        (0, 0, 50, 50, Room.FITS),
        (49, 0, 50, 1, Room.FITS),
        (50, 0, 50, 1, Room.SPENT),
        (49, 1, 50, 1, Room.HELD),
        (50, 1, 50, 1, Room.SPENT),
        (0, 0, 50, 51, Room.NEVER_FITS),
        (50, 0, 50, 0, Room.FITS),
        (51, 0, 50, 0, Room.SPENT),  # overshot: closed, also for what costs nothing
        (0, 0, 0, 0, Room.NEVER_FITS),  # a limit of 0 allows nothing
    ],
)
def test_room(spent: int, held: int, limit: int, amount: int, found: Room) -> None:
    assert ledger.room(balance(spent, held), limit, amount) is found


@given(spent=amounts, held=amounts, limit=amounts, amount=amounts)
def test_what_fits_never_exceeds_the_limit(spent: int, held: int, limit: int, amount: int) -> None:
    before = balance(spent, held)
    if ledger.room(before, limit, amount) is Room.FITS:
        after = ledger.hold(before, amount)
        assert after.spent + after.held <= limit
        assert ledger.room(after, after.spent + after.held, 1) is not Room.FITS


@given(spent=amounts, held=amounts, reserved=amounts, used=amounts, known=amounts)
def test_reserve_settle_and_correct_add_up(
    spent: int, held: int, reserved: int, used: int, known: int
) -> None:
    before = balance(spent, held)
    settled = ledger.settle(ledger.hold(before, reserved), reserved, used)
    assert settled == balance(spent + used, held)
    assert ledger.correct(settled, known - used) == balance(spent + known, held)


def test_a_denial_names_the_counter_that_stays_closed_longest() -> None:
    order = candidate(counter(Unit.REQUESTS, 5), counter(Unit.TOKENS, 500), counter(Unit.NANOS, 60))
    fits = balance(0, 0)
    assert ledger.denial(order, [fits, fits, fits]) is None

    held = ledger.denial(order, [balance(4, 1), fits, fits])
    assert held is not None
    assert (held.position, held.counter_key, held.amount) == (7, "requests", 1)
    assert held.held_only
    assert not held.never_fits

    spent = ledger.denial(order, [balance(4, 1), balance(450, 0, 20), balance(60, 0, 10)])
    assert spent is not None
    assert (spent.counter_key, spent.balance.ends_ms) == ("tokens", 20)
    assert not spent.held_only

    never = ledger.denial(candidate(counter(Unit.TOKENS, 99), counter(Unit.REQUESTS, 5)),
                          [fits, balance(5, 0)])  # fmt: skip
    assert never is not None
    assert never.never_fits
    assert never.counter_key == "tokens"


def test_amounts_are_bounded() -> None:
    assert ledger.bounds(candidate()) == Amounts(1, 100, 50)
    assert Amounts(0, CAP_NANOS_MAX, 0).checked() == Amounts(0, CAP_NANOS_MAX, 0)
    for wrong in (Amounts(-1, 0, 0), Amounts(0, CAP_NANOS_MAX + 1, 0)):
        with pytest.raises(ValueError, match="amounts must be from 0"):
            wrong.checked()


def test_a_difference_may_be_negative() -> None:
    assert Amounts(1, 10, 5).minus(Amounts(1, 4, 9)) == Amounts(0, 6, -4)
