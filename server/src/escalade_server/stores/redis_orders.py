"""What the Redis store may be asked, beside the commands of the core."""

import asyncio
from typing import NamedTuple

from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.tally import Tally
from escalade_server.engine.news import Page
from escalade_server.engine.ports import Kept, StoreError
from escalade_server.stores.leasing import Fold, Folded
from escalade_server.stores.redis_news import Write
from escalade_server.stores.redis_sessions import session_fields
from escalade_server.stores.redis_traces import FindTrace, KeepTrace, trace_fields
from escalade_server.stores.redis_wire import Field
from escalade_server.stores.sessions import Keep, Recall

LEASE_MS = 45_000
"""An owner that has not said so for as long is dead, and what it left is booked in full (C6)."""


class Find(NamedTuple):
    """The order to look a reservation up."""

    reservation_id: str


class Again(NamedTuple):
    """The order to hold what was held before, whether there is room or not."""

    order: Reserve


class Free(NamedTuple):
    """The order to let others run request ids that this owner ran."""

    claims: tuple[str, ...]


class Look(NamedTuple):
    """The order to tell what is new; ``lease_ms`` 0 says that this owner leaves."""

    lease_ms: int = LEASE_MS


class Read(NamedTuple):
    """The order to read the feed."""

    after: int
    limit: int


class Count(NamedTuple):
    """The order to count a task in the day of an instant."""

    tally: Tally
    now_ms: int


class Days(NamedTuple):
    """The order to read the sums of a day; without one, to list the days."""

    day: str = ""


class Report(NamedTuple):
    """The order to keep the report of a day; without one, to list the days that have one."""

    day: str = ""
    text: str = ""


Beside = Write | Read | Days | Report | Recall | Keep | KeepTrace | FindTrace
"""What needs nothing but itself."""
Order = Reserve | Again | Settle | Fold | SetBench | Find | Free | Look | Count | Beside
Answer = Reserved | ReservationDenied | Repeated | Kept | Page | Folded | list[str] | bool | None


class Item(NamedTuple):
    """An order on its way; nobody waits for a settlement that was kept."""

    order: Order
    until_s: float
    future: "asyncio.Future[Answer] | None"

    def answer(self, result: Answer) -> None:
        """Tell who waits, if anybody still does."""
        if self.future is not None and not self.future.done():
            self.future.set_result(result)

    def fail(self, error: StoreError) -> None:
        """Tell who waits that it cannot be done."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


def plain_fields(order: Beside) -> tuple[str, tuple[Field, ...]]:
    """Name the script of an order that goes as it is, and write it."""
    match order:
        case Write():
            return "write", order.fields
        case Read():
            return "page", order
        case Days():
            return "days", order
        case Report():
            return "reports", order
        case Recall() | Keep():
            return session_fields(order)
        case KeepTrace() | FindTrace():
            return trace_fields(order)
