"""The store of one host: a SQLite file behind one writer thread (quotas C7, pitfalls P16-P20).

Orders are queued; the writer takes what is there, serves it in one transaction, and hands all
answers back with one call into the event loop: what is published and what is answered is durable.
It never waits to fill a batch. When the disk refuses, nothing is admitted, and settlements go to
a journal until they are in the ledger (S2); after a failed fsync or a damaged file nothing
can be believed until the next start (S3, S4). The process holds an exclusive lock on a side file,
so that a second server on the same state is refused (S6).

Without a path the state is in memory, and every order is served at once on the calling thread.
"""

import asyncio
import contextlib
import fcntl
import os
import queue
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import apsw

from escalade_server.core.catalog import Counter
from escalade_server.core.commands import Reserve, SetBench, Settle
from escalade_server.core.events import Repeated, ReservationDenied, Reserved
from escalade_server.core.standing import Bench, Denial, Standing
from escalade_server.core.window import Window, slice_at, slides
from escalade_server.engine.ports import Clock, Kept, Spend, StoreError
from escalade_server.stores.board import Board, Change
from escalade_server.stores.books import Books
from escalade_server.stores.schema import MEND, check_library, migrate
from escalade_server.stores.spill import Spill

BUSY_MS = 5_000
BATCH_MAX = 1_000
LOG_PAGES = 8_000
"""The log is written back at 32 MB: ids are random, and at SQLite's 4 MB the same pages of their
index are written back again and again, at half the throughput of 200 callers."""
SPILL = ".spill"
"""What is added to the name of the file for that of its journal."""
LOOK_S = 1.0
"""How often the writer looks at what only time brings, while there is any."""


class Find(NamedTuple):
    """The order to look a reservation up."""

    reservation_id: str


Order = Reserve | Settle | SetBench | Find
Answer = Reserved | ReservationDenied | Repeated | Kept | None
Result = Reserved | list[Denial] | Repeated | Kept | StoreError | None


class _Item(NamedTuple):
    """An order on its way; the future is gone once a settlement was answered as failed."""

    order: Order
    now_ms: int
    future: "asyncio.Future[Answer] | None"


class _Stop(NamedTuple):
    """The last item of the queue."""

    future: "asyncio.Future[None]"


def lock(path: str) -> int:
    """Take the exclusive lock of a state file, for as long as the process lives (P17, P18).

    Raises:
        StoreError: another process has it.
    """
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(handle, 32).decode(errors="replace").strip()
        os.close(handle)
        raise StoreError(
            f"{path} is in use by process {holder or 'unknown'}: a SQLite file serves one server"
            " at a time; stop that one, or give this one another state file"
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _connect(path: str | None, vfs: str | None) -> apsw.Connection:
    check_library(apsw.sqlite_lib_version())
    connection = apsw.Connection(path or ":memory:", vfs=vfs)
    try:
        connection.set_busy_timeout(BUSY_MS)
        connection.execute("PRAGMA trusted_schema = OFF")
        if path is not None:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.wal_autocheckpoint(LOG_PAGES)
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _refusal(path: str | None, error: Exception) -> StoreError:
    """Say why the state cannot be opened, and the mend; nothing is ever wiped (S4)."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return StoreError(
            f"{path} is damaged or no database ({error}); it was left as it is: {MEND}"
        )
    return StoreError(f"{path} cannot be opened: {error}")


def _is_final(error: Exception) -> bool:
    """Whether the file can no longer be believed: fsync failed, damage, or our own bug."""
    if isinstance(error, apsw.IOError):
        code = getattr(error, "extendedresult", 0)  # missing in apsw's type stubs
        return code in {apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC}
    return isinstance(error, apsw.CorruptError | apsw.NotADBError) or not isinstance(
        error, apsw.Error
    )


class SqliteStore:
    """``Store`` over one SQLite file, or over memory when ``path`` is None."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        clock: Clock,
        calendar: Callable[[Counter, int], Window],
        vfs: str | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Say where; ``open`` does the work. ``vfs`` names another SQLite VFS.

        ``tell`` hears, on the event loop, why the ledger cannot be written, and nothing (the empty
        string) when it can be again.
        """
        self._path = None if path is None else os.path.realpath(path)
        self._clock = clock
        self._calendar = calendar
        self._vfs = vfs
        self._tell = tell
        self._told: tuple[bool, bool] | None = None
        """What was told last: whether settlements may be lost, whether a restart is needed."""
        self._board = Board()
        self._counters: tuple[Counter, ...] = ()
        self._queue: queue.SimpleQueue[_Item | _Stop] = queue.SimpleQueue()
        self._closed: str | None = "the store is not open"
        self._broken: str | None = None
        self._spill = None if self._path is None else Spill(f"{self._path}{SPILL}")
        self._owed: list[_Item] = []
        self._spilled = 0
        """How many of them the journal holds."""
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

    def standing(self, now_ms: int) -> Standing:
        """Answer shared state as last published; circuits are not kept here."""
        return self._board.standing(now_ms)

    def spends(self, now_ms: int) -> tuple[Spend, ...]:
        """Answer every counter of the strategy with what it holds now."""
        found = []
        for counter in self._counters:
            balance = self._board.balance(counter.key, now_ms)
            if balance is None:
                window = slice_at if slides(counter.period) else None
                ends_ms = (
                    self._calendar(counter, now_ms)
                    if window is None
                    else window(counter.period, now_ms)
                ).ends_ms
                found.append(Spend(counter, 0, 0, ends_ms))
            else:
                found.append(Spend(counter, balance.spent, balance.held, balance.ends_ms))
        return tuple(found)

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

    async def close(self) -> None:
        """Serve what is queued, write the log back and let the lock go; safe twice."""
        if self._closed is not None:
            return
        self._closed = "the store is closed"
        stopped: asyncio.Future[None] = self._loop.create_future()
        if self._path is None:
            self._end(stopped)
        else:
            self._queue.put(_Stop(stopped))
        await stopped

    def _submit(self, order: Order, now_ms: int) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = self._loop.create_future()
        if self._closed is not None:
            future.set_exception(StoreError(self._closed))
        elif self._path is None:
            self._serve([_Item(order, now_ms, future)])
        else:
            self._queue.put(_Item(order, now_ms, future))
        return future

    def _publish(
        self,
        changes: list[Change],
        benches: dict[str, Bench] | None,
        answers: Sequence[tuple[_Item, Result]],
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
        while True:
            timeout = LOOK_S if self._owed or self._books.is_waiting else None
            batch: list[_Item] = []
            stop: _Stop | None = None
            with contextlib.suppress(queue.Empty):
                item = self._queue.get(timeout=timeout)
                while True:
                    if isinstance(item, _Stop):
                        stop = item
                        break
                    batch.append(item)
                    if len(batch) == BATCH_MAX:
                        break
                    item = self._queue.get_nowait()
            if batch or timeout is not None:
                self._serve(batch)
            if stop is not None:
                self._end(stop.future)
                return

    def _start(self, opened: "asyncio.Future[None]") -> bool:
        """Open the file; the answer is whether that went well."""
        try:
            if self._path is not None:
                self._handle = lock(self._path)
            self._connection = _connect(self._path, self._vfs)
            self._books = Books(self._connection, self._calendar, self._clock.now_ms())
            self._books.open(self._counters, self._spill.open() if self._spill else ())
            if self._spill:
                self._spill.clear()
        except Exception as error:  # noqa: BLE001  # a thread's exception reaches nobody else
            self._release()
            self._post(_fail, opened, _refusal(self._path, error))
            return False
        if self._spill and self._spill.damaged:
            lost = f"{self._spill.damaged} settlements in {self._spill.path} cannot be read"
            self._post(self._tell, f"{lost}: their calls are booked in full")
        self._post(self._publish, *self._books.changes(), (), self._clock.now_ms())
        self._post(_done, opened)
        return True

    def _serve(self, batch: list[_Item]) -> None:
        """Serve a batch, and what is owed, in one transaction."""
        if self._broken is not None:
            self._refuse(batch, self._broken)
            return
        items = self._owed + batch
        books = self._books
        try:
            orders = [item.order for item in items if not isinstance(item.order, SetBench)]
            books.begin(
                [order.reservation_id for order in orders],
                [
                    (order.agent, order.request_id)
                    for order in orders
                    if isinstance(order, Reserve) and order.request_id
                ],
            )
            books.sweep(self._clock.now_ms())
            answers = [(item, self._answer(item)) for item in items]
            books.commit()
            changes, benches = books.changes()
        except Exception as error:  # noqa: BLE001  # whatever it is, nobody may wait for ever
            self._undo(error, batch)
            return
        if self._owed:
            self._owed, self._spilled = [], 0
            if self._spill is not None:
                self._spill.clear()
        self._say(None)
        now_ms = items[-1].now_ms if items else self._clock.now_ms()
        self._post(self._publish, changes, benches, answers, now_ms)

    def _answer(self, item: _Item) -> Result:
        """Serve one order; a bad one is refused alone, before it changed anything."""
        order, books = item.order, self._books
        try:
            if isinstance(order, Reserve):
                return books.reserve(order, item.now_ms)
            if isinstance(order, Find):
                return books.find(order.reservation_id)
            if isinstance(order, Settle):
                books.settle(order, item.now_ms)
            else:
                books.bench(order, item.now_ms)
        except (StoreError, ValueError) as error:
            return StoreError(str(error))
        return None

    def _undo(self, error: Exception, batch: list[_Item]) -> None:
        """Undo the batch, and keep its settlements."""
        detail = f"the ledger cannot be written: {type(error).__name__}: {error}"
        try:
            self._books.roll_back()
        except apsw.Error as worse:
            error = worse
        if _is_final(error):
            self._broken = f"{detail}; restart the server when the disk is sound"
        self._refuse(batch, self._broken or detail)

    def _refuse(self, batch: list[_Item], detail: str) -> None:
        """Answer that it cannot be done; but a settlement is as soon as the journal has it."""
        settles = [item for item in batch if isinstance(item.order, Settle)]
        self._owed += [item._replace(future=None) for item in settles if self._matters(item)]
        lost = self._keep_owed()
        failed = StoreError(f"{detail}; {lost}" if lost else detail)
        answers: list[tuple[_Item, Result]] = [
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

    def _matters(self, item: _Item) -> bool:
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
        if self._owed:
            self._serve([])
        self._release()
        self._post(_done, stopped)

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


def _done(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: "asyncio.Future[None]", error: StoreError) -> None:
    if not future.done():
        future.set_exception(error)
