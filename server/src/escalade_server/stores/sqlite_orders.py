"""What the writer of the SQLite store is asked for, and what it answers."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Counter
from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.session import Session
from escalade_server.core.standing import Denial
from escalade_server.core.tally import Tally
from escalade_server.engine.news import Page
from escalade_server.engine.ports import Kept, StoreError
from escalade_server.stores.leasing import Fold, Folded
from escalade_server.stores.sessions import Keep, Recall


class Find(NamedTuple):
    """The order to look a reservation up."""

    reservation_id: str


class Read(NamedTuple):
    """The order to read the feed."""

    after: int
    limit: int


class KeepReport(NamedTuple):
    """The order to keep the report of a day."""

    day: str
    report: str


class Adopt(NamedTuple):
    """The order to go on with the counters of another strategy."""

    counters: Sequence[Counter]
    marks: Mapping[str, Sequence[Mark]]


Order = (
    Reserve | Settle | SetBench | Find | Read | Adopt | Tally | KeepReport | Fold | Recall | Keep
)
Answer = Reserved | ReservationDenied | Repeated | Kept | Page | Session | Folded | bool | None
Result = (
    Reserved | list[Denial] | Repeated | Kept | Page | Folded | Session | bool | StoreError | None
)


class Item(NamedTuple):
    """An order on its way; the future is gone once a settlement was answered as failed."""

    order: Order
    now_ms: int
    future: "asyncio.Future[Answer] | None"


class Stop(NamedTuple):
    """The last item of the queue."""

    future: "asyncio.Future[None]"


def done(future: "asyncio.Future[None]") -> None:
    """Answer that it is done, unless nobody waits any more."""
    if not future.done():
        future.set_result(None)


def fail(future: "asyncio.Future[None]", error: StoreError) -> None:
    """Answer why it cannot be done, unless nobody waits any more."""
    if not future.done():
        future.set_exception(error)
