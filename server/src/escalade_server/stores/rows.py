"""What the books of the SQLite store keep in memory: rows, accounts, reservations."""

from dataclasses import dataclass, field
from enum import IntEnum

from escalade_server.core import ledger
from escalade_server.core.catalog import Period, Unit
from escalade_server.core.ledger import NOTHING, Amounts
from escalade_server.core.standing import Balance, Denial
from escalade_server.core.window import slides
from escalade_server.engine.ports import Booking


class State(IntEnum):
    """What became of a reservation."""

    OPEN = 0
    UNCERTAIN = 1
    """Held until an instant, then booked in full (quotas C5)."""
    ASSUMED = 2
    """Booked at the reserve without being told the usage; told later, it is corrected once."""
    SETTLED = 3


BOOKING = {
    State.OPEN: Booking.OPEN,
    State.UNCERTAIN: Booking.OPEN,
    State.ASSUMED: Booking.ASSUMED,
    State.SETTLED: Booking.SETTLED,
}


@dataclass(slots=True, weakref_slot=True, eq=False)
class Row:
    """One window, or slice, of one counter; ``admits_to_ms`` is when admissions go to a later."""

    account: "Account"
    starts_ms: int
    admits_to_ms: int
    balance: Balance
    mark: int | None = None
    """From how many units spent on somebody is to be told; None: nobody."""


@dataclass(slots=True)
class Account:
    """One counter with its rows that still count, oldest first."""

    id: int
    key: str
    unit: Unit
    period: Period
    live: list[Row]
    column: int = field(init=False)
    """Which of an attempt's amounts it counts."""
    sliding: bool = field(init=False)

    def __post_init__(self) -> None:
        self.column = ledger.FIELD[self.unit]
        self.sliding = slides(self.period)


@dataclass(slots=True)
class Reservation:
    """What one attempt holds, where, and what was booked for it."""

    number: int
    id: str
    owner: int
    model: str
    position: int
    state: State
    reserved: Amounts
    rows: tuple[Row, ...]
    windows: str
    admitted_ms: int
    agent: str
    routed: bool
    day: str
    """Of its admission, in the zone of the reports; with what follows it is what use is told by."""
    layer: str
    task_type: str
    metered: bool
    digest: str = ""
    request_id: str = ""
    content: str = ""
    figures: str = ""
    resolve_at_ms: int = 0
    used: Amounts = NOTHING
    denials: tuple[Denial, ...] = ()
