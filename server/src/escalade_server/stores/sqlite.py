"""The store of one host: a SQLite file behind one writer thread (quotas C7, pitfalls P16-P20).

Orders are queued; the writer takes what is there, serves it in one transaction, and hands all
answers back with one call into the event loop: what is published and what is answered is durable.
It never waits to fill a batch. When the disk refuses, nothing is admitted, and settlements go to
a journal until they are in the ledger (S2); after a failed fsync or a damaged file nothing
can be believed until the next start (S3, S4). The process holds an exclusive lock on a side file,
so that a second server on the same state is refused (S6). Workers of one server share the file:
their supervisor holds that lock, and they take turns to write (``stores.crew``).

Without a path the state is in memory, and every order is served at once on the calling thread.
"""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import TypeVar

import apsw

from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Counter
from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.standing import Bench, Standing
from escalade_server.core.tally import Tally
from escalade_server.core.window import Window
from escalade_server.engine.news import Entry, Page
from escalade_server.engine.ports import Clock, Kept, Spend, StoreError
from escalade_server.engine.usage import UsageTables
from escalade_server.stores import usage
from escalade_server.stores.board import Board, Change
from escalade_server.stores.books import Books
from escalade_server.stores.crew import Crew
from escalade_server.stores.feed import Notes
from escalade_server.stores.file import connect, is_final, lock, refusal
from escalade_server.stores.leasing import Fold, Folded
from escalade_server.stores.sessions import Keep, Recall, SessionKeeper
from escalade_server.stores.spill import Spill, left_beside
from escalade_server.stores.sqlite_orders import (
    Adopt,
    Answer,
    Find,
    Item,
    KeepReport,
    Order,
    Read,
    Result,
    Stop,
    done,
    fail,
)
from escalade_server.stores.traces import SqliteTraces

BATCH_MAX = 1_000
SPILL = ".spill"
"""What is added to the name of the file for that of its journal."""
NOTE_S = 0.1
"""How long an entry of the feed waits for a batch, before it gets one of its own."""
LOOK_S, SHARED_LOOK_S = 1.0, 0.25
"""How often the writer looks at what only time, or another process, brings."""
T = TypeVar("T")


class SqliteStore(SessionKeeper, SqliteTraces):
    """``Store`` over one SQLite file, or over memory when ``path`` is None."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        clock: Clock,
        calendar: Callable[[Counter, int], Window],
        vfs: str | None = None,
        tell: Callable[[str], None] = lambda _: None,
        *,
        zone: str = "UTC",
        crew: Crew | None = None,
    ) -> None:
        """Say where; ``open`` does the work. ``vfs`` names another SQLite VFS.

        ``zone`` is that of the days in reports. A worker shares the file with its ``crew``.

        ``tell`` hears, on the event loop, why the ledger cannot be written, and nothing (the empty
        string) when it can be again.
        """
        super().__init__(alone=crew is None)
        self._path = None if path is None else os.path.realpath(path)
        self._clock = clock
        self._calendar = calendar
        self._vfs, self._zone = vfs, zone
        self._tell = tell
        self._told: tuple[bool, bool] | None = None
        """What was told last: whether settlements may be lost, whether a restart is needed."""
        self._board = Board()
        self._counters: tuple[Counter, ...] = ()
        self._queue: queue.SimpleQueue[Item | Stop] = queue.SimpleQueue()
        self._closed: str | None = "the store is not open"
        self._broken: str | None = None
        self._crew = crew
        nth = f"-{crew.number}" if crew is not None and crew.number > 1 else ""
        self._spill = None if self._path is None else Spill(f"{self._path}{SPILL}{nth}")
        self._owed: list[Item] = []
        self._spilled = 0
        """How many of them the journal holds."""
        self._notes = Notes()
        self._noting = False
        self._marks: Mapping[str, Sequence[Mark]] = {}
        self._follower: Callable[[Sequence[Entry]], None] = lambda _: None
        self._handle: int | None = None

    # ---------------------------------------------------------------- on the event loop thread

    async def open(self, counters: Sequence[Counter]) -> None:
        """Lock, check, migrate and recover the file; see ``Store``."""
        self._loop = asyncio.get_running_loop()
        self._counters = tuple(counters)
        opened: asyncio.Future[None] = self._loop.create_future()
        if self._path is None:
            self._start(opened)
        else:
            self._thread = threading.Thread(
                target=self._run, args=(opened,), name="escalade-sqlite", daemon=True
            )
            self._thread.start()
        await opened
        self._closed = None

    def adopt(
        self, counters: Sequence[Counter], marks: Mapping[str, Sequence[Mark]] | None = None
    ) -> Awaitable[None]:
        """Queue a change of strategy; see ``Store``."""
        self._counters = tuple(counters)
        return self._submit(Adopt(self._counters, marks or {}), self._clock.now_ms())  # type: ignore[return-value]

    def standing(self, now_ms: int) -> Standing:
        """Answer shared state as last published; circuits are not kept here."""
        return self._board.standing(now_ms)

    def spends(self, now_ms: int) -> tuple[Spend, ...]:
        """Answer every counter of the strategy with what it holds now."""
        return self._board.spends(self._counters, self._calendar, now_ms)

    def reserve(
        self, order: Reserve, now_ms: int
    ) -> Awaitable[Reserved | ReservationDenied | Repeated]:
        """Queue a reservation; see ``Store``.

        Who stops waiting for the answer may hold something all the same, and settles the id.
        """
        return self._submit(order, now_ms)  # type: ignore[return-value]

    def settle(self, order: Settle, now_ms: int) -> Awaitable[None]:
        """Queue a settlement; see ``Store``. An id that holds nothing is no error."""
        return self._submit(order, now_ms)  # type: ignore[return-value]

    def bench(self, order: SetBench, now_ms: int) -> Awaitable[None]:
        """Queue a cooldown; see ``Store``."""
        return self._submit(order, now_ms)  # type: ignore[return-value]

    def find(self, reservation_id: str) -> Awaitable[Kept | None]:
        """Queue a look at a reservation; see ``Store``."""
        return self._submit(Find(reservation_id), self._clock.now_ms())  # type: ignore[return-value]

    def fold(self, order: Fold, now_ms: int) -> Awaitable[Folded]:
        """Queue a fold of a lease; see ``LeasableStore``."""
        return self._submit(order, now_ms)  # type: ignore[return-value]

    def tally(self, order: Tally, now_ms: int) -> Awaitable[None]:
        """Queue the count of a task; see ``Store``."""
        return self._submit(order, now_ms)  # type: ignore[return-value]

    def keep_report(self, day: str, report: str, now_ms: int) -> Awaitable[bool]:
        """Queue a report; see ``UsageStore``."""
        return self._submit(KeepReport(day, report), now_ms)  # type: ignore[return-value]

    async def usage(self, begin: str, end: str, agent: str | None = None) -> UsageTables:
        """Sum up a span of days; see ``UsageStore``."""
        return await self._look(partial(usage.read, begin=begin, end=end, agent=agent))

    async def unreported(self, begin: str, end: str) -> tuple[str, ...]:
        """List the days without a report; see ``UsageStore``."""
        return await self._look(partial(usage.unreported, begin=begin, end=end))

    async def _look(self, reader: Callable[[apsw.Connection], T]) -> T:
        if self._closed is not None:
            raise StoreError(self._closed)
        if self._path is None:
            return reader(self._connection)
        return await asyncio.to_thread(usage.read_file, self._path, self._vfs, reader)

    def entries(self, after: int, limit: int) -> Awaitable[Page]:
        """Queue a look into the feed; see ``FeedStore``."""
        return self._submit(Read(after, limit), self._clock.now_ms())  # type: ignore[return-value]

    def record(self, entries: Sequence[Entry]) -> None:
        """Take entries of the feed; see ``FeedStore``."""
        self._notes.add(*entries)
        self._write_soon()

    def delivered(self, number: int) -> None:
        """Take up to where people are notified; see ``FeedStore``."""
        self._notes.add(number)
        self._write_soon()

    def follow(
        self,
        told: Callable[[Sequence[Entry]], None],
        marks: Mapping[str, Sequence[Mark]] = MappingProxyType({}),
    ) -> None:
        """Say who is told of kept entries, and of which marks; see ``FeedStore``."""
        self._follower, self._marks = told, marks

    def _write_soon(self) -> None:
        if self._closed is not None or self._noting:
            return
        self._noting = True
        self._loop.call_later(0.0 if self._path is None else NOTE_S, self._write_notes)

    def _write_notes(self) -> None:
        """Give what has met no batch one of its own."""
        self._noting = False
        if self._notes and self._closed is None:
            look = Item(Read(0, 0), self._clock.now_ms(), None)
            if self._path is None:
                self._serve([look])
            else:
                self._queue.put(look)

    async def close(self) -> None:
        """Serve what is queued, write the log back and let the lock go; safe twice."""
        if self._closed is not None:
            return
        self._closed = "the store is closed"
        stopped: asyncio.Future[None] = self._loop.create_future()
        if self._path is None:
            self._end(stopped)
        else:
            self._queue.put(Stop(stopped))
        await stopped

    def _submit(self, order: Order, now_ms: int) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = self._loop.create_future()
        if self._closed is not None:
            future.set_exception(StoreError(self._closed))
        elif self._path is None:
            self._serve([Item(order, now_ms, future)])
        else:
            self._queue.put(Item(order, now_ms, future))
        return future

    def _publish(
        self,
        changes: list[Change],
        benches: dict[str, Bench] | None,
        answers: Sequence[tuple[Item, Result]],
        now_ms: int,
    ) -> None:
        """Take a batch: first what everybody sees, then the answers."""
        self._board.publish(changes, benches, now_ms)
        for item, result in answers:
            future = item.future
            if future is None or future.done():
                continue
            if isinstance(result, StoreError):
                future.set_exception(result)
            elif isinstance(result, list):
                assert isinstance(item.order, Reserve), "only reservations are denied"
                standing = self._board.standing(item.now_ms)
                future.set_result(ReservationDenied(item.order.attempt, tuple(result), standing))
            else:
                future.set_result(result)

    # ------------------------------------------------------------------- on the writer's thread

    def _run(self, opened: "asyncio.Future[None]") -> None:
        if not self._start(opened):
            return
        look_s = LOOK_S if self._crew is None else SHARED_LOOK_S
        while True:
            batch: list[Item] = []
            stop: Stop | None = None
            with contextlib.suppress(queue.Empty):
                item = self._queue.get(timeout=look_s)
                while True:
                    if isinstance(item, Stop):
                        stop = item
                        break
                    batch.append(item)
                    if len(batch) == BATCH_MAX:
                        break
                    item = self._queue.get_nowait()
            if batch or self._owed or self._books.is_waiting or self._told is not None:
                self._serve(batch)
            if stop is not None:
                self._end(stop.future)
                return

    def _start(self, opened: "asyncio.Future[None]") -> bool:
        """Open the file; the answer is whether that went well."""
        try:
            if self._path is not None and self._crew is None:
                self._handle = lock(self._path)
            self._connection = connect(self._path, self._vfs)
            with self._turn():
                self._open_books()
        except Exception as error:  # noqa: BLE001  # a thread's exception reaches nobody else
            self._release()
            self._post(fail, opened, refusal(self._path, error))
            return False
        if self._spill and self._spill.damaged:
            lost = f"{self._spill.damaged} settlements in {self._spill.path} cannot be read"
            self._post(self._tell, f"{lost}: their calls are booked in full")
        self._post(self._publish, *self._books.changes(), (), self._clock.now_ms())
        self._tell_feed()
        self._post(done, opened)
        return True

    def _open_books(self) -> None:
        now_ms = self._clock.now_ms()
        self._books = Books(self._connection, self._calendar, now_ms, self._zone, self._crew)
        owed = self._spill.open() if self._spill else []
        others: list[Spill] = []
        if self._spill and (self._crew is None or self._crew.first):
            others = left_beside(f"{self._path}{SPILL}-")
        for other in others:
            owed += other.open()
        self._books.open(self._counters, owed, self._marks)
        for spill in others:
            spill.remove()
        if self._spill:
            self._spill.clear()

    def _turn(self) -> AbstractContextManager[None]:
        return nullcontext() if self._crew is None else self._crew.turn()

    def _serve(self, batch: list[Item]) -> None:
        """Serve a batch, and what is owed, in one transaction."""
        with self._turn():
            self._serve_in_turn(batch)

    def _serve_in_turn(self, batch: list[Item]) -> None:
        if self._broken is not None:
            self._refuse(batch, self._broken)
            return
        items = self._owed + batch
        books, notes = self._books, self._notes.take()
        try:
            held = Reserve | Settle | Find
            orders = [item.order for item in items if isinstance(item.order, held)]
            books.begin(
                [order.reservation_id for order in orders],
                [
                    (order.agent, order.request_id)
                    for order in orders
                    if isinstance(order, Reserve) and order.request_id
                ],
            )
            books.sweep(self._clock.now_ms())
            books.feed.note(notes, self._clock.now_ms())
            answers = [(item, self._answer(item)) for item in items]
            books.commit()
            changes, benches = books.changes()
        except Exception as error:  # noqa: BLE001  # whatever it is, nobody may wait for ever
            self._notes.give_back(notes)
            self._undo(error, batch)
            return
        if self._owed:
            self._owed, self._spilled = [], 0
            if self._spill is not None:
                self._spill.clear()
        self._say(None)
        now_ms = items[-1].now_ms if items else self._clock.now_ms()
        self._tell_feed()
        self._post(self._publish, changes, benches, answers, now_ms)

    def _tell_feed(self) -> None:
        fresh = self._books.feed.fresh()
        if fresh:
            self._post(self._follower, fresh)

    def _answer(self, item: Item) -> Result:
        """Serve one order; a bad one is refused alone, before it changed anything."""
        order, books = item.order, self._books
        try:
            if isinstance(order, Reserve):
                return books.reserve(order, item.now_ms)
            if isinstance(order, Find):
                return books.find(order.reservation_id)
            if isinstance(order, Read):
                return books.feed.page(order.after, order.limit)
            if isinstance(order, Adopt):
                books.adopt(order.counters, order.marks)
                return None
            if isinstance(order, Recall):
                return books.sessions.find(order.key, item.now_ms)
            if isinstance(order, KeepReport):
                return books.roll_up.keep_report(order.day, order.report, item.now_ms)
            if isinstance(order, Fold):
                return books.fold(order, item.now_ms)
            if isinstance(order, Settle):
                books.settle(order, item.now_ms)
            elif isinstance(order, Keep):
                books.sessions.keep(order)
            elif isinstance(order, Tally):
                books.roll_up.count(order, books.roll_up.day(item.now_ms))
            else:
                books.bench(order, item.now_ms)
        except (StoreError, ValueError) as error:
            return StoreError(str(error))
        return None

    def _undo(self, error: Exception, batch: list[Item]) -> None:
        """Undo the batch, and keep its settlements."""
        detail = f"the ledger cannot be written: {type(error).__name__}: {error}"
        try:
            self._books.roll_back()
        except apsw.Error as worse:
            error = worse
        if is_final(error):
            self._broken = f"{detail}; restart the server when the disk is sound"
        self._refuse(batch, self._broken or detail)

    def _refuse(self, batch: list[Item], detail: str) -> None:
        """Answer that it cannot be done; but a settlement is as soon as the journal has it."""
        settles = [item for item in batch if isinstance(item.order, Settle)]
        self._owed += [item._replace(future=None) for item in settles if self._matters(item)]
        lost = self._keep_owed()
        failed = StoreError(f"{detail}; {lost}" if lost else detail)
        answers: list[tuple[Item, Result]] = [
            (item, None if isinstance(item.order, Settle) and not lost else failed)
            for item in batch
        ]
        self._post(self._publish, [], None, answers, 0)
        why = lost or f"settlements wait in {SPILL} beside it"
        self._say((bool(lost), self._broken is not None), f"{detail}; nothing is admitted, {why}")

    def _keep_owed(self) -> str:
        """Put into the journal what it lacks; answer why that could not be done."""
        owed = [item.order for item in self._owed[self._spilled :]]
        if self._spill is None:
            return "there is no journal of state in memory" if owed else ""
        try:
            self._spill.append(order for order in owed if isinstance(order, Settle))
        except OSError as error:
            return f"its journal cannot be either ({error}): settlements are kept in memory only"
        self._spilled = len(self._owed)
        return ""

    def _matters(self, item: Item) -> bool:
        """Tell a settlement from the release of a reservation that never came to be."""
        order = item.order
        assert isinstance(order, Settle), "nothing else is kept"
        used = order.requests or order.tokens or order.nanos or order.digest
        return bool(used) or self._books.may_hold(order.reservation_id)

    def _say(self, state: tuple[bool, bool] | None, detail: str = "") -> None:
        """Tell a change for the worse or the better, once."""
        if state != self._told:
            self._told = state
            self._post(self._tell, detail)

    def _end(self, stopped: "asyncio.Future[None]") -> None:
        """Try once more what is owed, then close; the rest is booked in full at the next start."""
        if self._owed or self._notes:
            self._serve([])
        self._release()
        self._post(done, stopped)

    def _release(self) -> None:
        connection = getattr(self, "_connection", None)
        if connection is not None:
            with contextlib.suppress(apsw.Error):
                if self._broken is not None:  # the log may hold what was never synced
                    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                connection.close()
        if self._spill is not None:
            self._spill.close()
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        """Hand something to the event loop; a loop that is gone needs nothing any more."""
        if self._path is None:
            call(*arguments)
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)
