"""The arithmetic of counters: is there room, and what a balance becomes (quotas C2-C5, R14).

Every store computes with these; it only keeps the balances and makes the change atomic.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from escalade_server.core.catalog import Unit
from escalade_server.core.commands import Candidate
from escalade_server.core.money import CAP_NANOS_MAX
from escalade_server.core.standing import Balance, Denial


class Room(Enum):
    """Whether an amount fits, and what is in the way; a higher value lasts longer."""

    FITS = 0
    HELD = 1
    """Only unsettled reservations are in the way."""
    SPENT = 2
    NEVER_FITS = 3
    """Larger than the whole window or cap, or nothing is allowed at all."""


_FITS = Room.FITS


class Amounts(NamedTuple):
    """What one attempt holds or uses; a counter of a unit takes the field at ``FIELD[unit]``."""

    requests: int
    tokens: int
    nanos: int

    def minus(self, other: "Amounts") -> "Amounts":
        """Answer the difference; may be negative."""
        return Amounts(
            self.requests - other.requests, self.tokens - other.tokens, self.nanos - other.nanos
        )

    def checked(self) -> "Amounts":
        """Answer itself if every amount can be counted exactly.

        Raises:
            ValueError: an amount is negative or above ``CAP_NANOS_MAX`` (S14, U26).
        """
        if min(self) < 0 or max(self) > CAP_NANOS_MAX:
            raise ValueError(f"amounts must be from 0 to {CAP_NANOS_MAX}: {self}")
        return self


FIELD = {Unit.REQUESTS: 0, Unit.TOKENS: 1, Unit.NANOS: 2}
NOTHING = Amounts(0, 0, 0)


def bounds(candidate: Candidate) -> Amounts:
    """Answer what a reservation of this candidate holds."""
    return Amounts(1, candidate.tokens, candidate.nanos)


def room(balance: Balance, limit: int, amount: int) -> Room:
    """Say whether ``amount`` fits under ``limit`` beside what is spent and held.

    A limit of 0 allows nothing, not even an amount of 0 (R18, G7).
    """
    if balance.spent + balance.held + amount <= limit and limit:
        return _FITS
    if amount > limit or not limit:
        return Room.NEVER_FITS
    return Room.HELD if balance.spent + amount <= limit else Room.SPENT


def denial(candidate: Candidate, balances: Sequence[Balance]) -> Denial | None:
    """Answer why a candidate has no room: the counter that stays closed longest; None if it fits.

    ``balances`` are those of the model's counters, in the same order.
    ``held_only`` is thereby true only when holds are to blame in every counter that refuses.
    """
    worst: tuple[int, int] | None = None
    found: Denial | None = None
    for counter, balance in zip(candidate.counters, balances, strict=True):
        amount, limit = candidate.amount(counter), counter.limit
        _, spent, held, ends_ms = balance
        if spent + held + amount <= limit and limit:
            continue  # the commonest of all, without a call
        verdict = room(balance, limit, amount)
        rank = (verdict.value, ends_ms)
        if worst is None or rank > worst:
            worst = rank
            found = Denial(
                candidate.model.position, counter.key, balance, amount,
                verdict is Room.HELD, verdict is Room.NEVER_FITS,
            )  # fmt: skip
    return found


def hold(balance: Balance, amount: int) -> Balance:
    """Reserve: the amount is held until it is settled."""
    window, spent, held, ends_ms = balance
    return Balance(window, spent, held + amount, ends_ms)


def settle(balance: Balance, reserved: int, used: int) -> Balance:
    """Release what was reserved and book what was used, in full even above the cap (C3)."""
    window, spent, held, ends_ms = balance
    return Balance(window, spent + used, held - reserved, ends_ms)


def correct(balance: Balance, difference: int) -> Balance:
    """Book the difference between what was assumed and what is known now (C6, R32)."""
    return Balance(balance.window, balance.spent + difference, balance.held, balance.ends_ms)
