"""What the Redis store may be asked, beside the commands of the core."""

import asyncio
from typing import NamedTuple

from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.tally import Tally
from escalade_server.engine.news import Page
from escalade_server.engine.ports import Kept
from escalade_server.stores.redis_news import Write
from escalade_server.stores.redis_wire import Field

LEASE_MS = 45_000
"""An owner that has not said so for as long is dead, and what it left is booked in full (C6)."""


class Find(NamedTuple):
    """The order to look a reservation up."""

    reservation_id: str


class Again(NamedTuple):
    """The order to hold what was held before, whether there is room or not."""

    order: Reserve


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


Order = Reserve | Again | Settle | SetBench | Find | Look | Write | Read | Count | Days | Report
Answer = Reserved | ReservationDenied | Repeated | Kept | Page | list[str] | bool | None


class Item(NamedTuple):
    """An order on its way; nobody waits for a settlement that was kept."""

    order: Order
    until_s: float
    future: "asyncio.Future[Answer] | None"


def plain_fields(order: Write | Read | Days | Report) -> tuple[str, tuple[Field, ...]]:
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
