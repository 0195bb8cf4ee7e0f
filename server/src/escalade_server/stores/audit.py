"""What people enter in the ledger: each change with its old and new value, who, when and why.

The command writes beside a running server, in one transaction of SQLite's own: the server reads
its books anew with the next order, and within a second without one (``Books.is_waiting``). Only
what is spent is changed; what is held belongs to calls that are on their way.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from escalade_server.core.catalog import Counter, Period, Unit
from escalade_server.core.window import Window, slides
from escalade_server.engine.ports import Clock, StoreError
from escalade_server.stores.file import BUSY_MS, connect, lock, refusal
from escalade_server.stores.schema import APPLICATION_ID, MIGRATIONS, check_library, scalar

SPENT_MAX = (1 << 62) - 1

_LIVE = """
SELECT c.key, c.unit, c.period, w.label, sum(w.spent), sum(w.held), max(w.ends_ms)
FROM counters c JOIN windows w ON w.counter = c.id WHERE w.ends_ms > ?
GROUP BY c.key, c.unit, c.period ORDER BY c.key
"""


class Standing(NamedTuple):
    """One counter in its window; without one, nothing is spent yet."""

    key: str
    unit: Unit
    period: Period
    window: str
    spent: int
    held: int
    ends_ms: int


class Change(NamedTuple):
    """One entry of the audit."""

    at_ms: int
    who: str
    counter: str
    window: str
    old: int
    new: int
    reason: str


class LedgerDesk:
    """The ledger of one file, opened for a person. ``close`` it."""

    def __init__(self, path: str, clock: Clock, calendar: Callable[[Counter, int], Window]) -> None:
        """Open a ledger that is there; one that no server serves is brought to this version.

        Raises:
            StoreError: it is not there, damaged, or served by another version.
        """
        self._path = os.path.realpath(path)
        self._clock, self._calendar = clock, calendar
        if not Path(self._path).exists():
            raise StoreError(f"{path} is not there: a server makes it when it first starts")
        try:
            self._db = _open(self._path)
        except (apsw.Error, StoreError) as error:
            raise refusal(self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def standings(self) -> list[Standing]:
        """List the counters that hold anything in windows that have not ended."""
        rows = self._query(_LIVE, self._clock.now_ms())
        return [
            Standing(key, Unit(unit), Period(period), *rest) for key, unit, period, *rest in rows
        ]

    def changes(self) -> list[Change]:
        """List what people changed, oldest first."""
        columns = "at_ms, who, counter, window, old, new, reason"
        rows = self._query(f"SELECT {columns} FROM audit ORDER BY number")  # noqa: S608
        return [Change(*row) for row in rows]

    def enter(
        self,
        key: str,
        value: int,
        *,
        is_change: bool,
        who: str,
        reason: str,
        known: Counter | None = None,
    ) -> Change:
        """Set what is spent in a counter's window, or change it by a value.

        ``known`` is the counter as a strategy has it: with it, one that nothing was spent of yet
        can be entered, too.

        Raises:
            StoreError: no such counter, a window that slides, or a value out of range.
        """
        now_ms = self._clock.now_ms()
        try:
            with self._transaction():
                id_ = self._counter(key, known)
                starts_ms, window, old = self._window(id_, key, now_ms, known)
                new = old + value if is_change else value
                if not 0 <= new <= SPENT_MAX:
                    raise StoreError(f"{key} would have {new} spent; 0 or more is possible")
                self._db.execute(
                    "UPDATE windows SET spent = ? WHERE counter = ? AND starts_ms = ?",
                    (new, id_, starts_ms),
                )
                change = Change(now_ms, who, key, window, old, new, reason)
                self._db.execute(
                    "INSERT INTO audit (at_ms, who, counter, window, old, new, reason)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    change,
                )
        except apsw.Error as error:
            raise StoreError(f"{self._path} cannot be written: {error}") from error
        return change

    def _query(self, sql: str, *bindings: str | int) -> list[tuple[Any, ...]]:
        """Answer all rows; the tables are STRICT, so their columns have the types they say."""
        return self._db.execute(sql, bindings).fetchall()

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)

    def _counter(self, key: str, known: Counter | None) -> int:
        found = self._query("SELECT id, period FROM counters WHERE key = ?", key)
        if not found and known is None:
            raise StoreError(
                f"there is no counter {key!r}: `escalade ledger show` lists them; give --strategy"
                " for one of which nothing was spent yet"
            )
        period = known.period if known is not None else Period(found[0][1])
        if slides(period):
            raise StoreError(f"{key} counts over a {period.value}: it forgets by itself")
        if found:
            return int(found[0][0])
        assert known is not None
        insert = "INSERT INTO counters (key, unit, period) VALUES (?, ?, ?) RETURNING id"
        [(id_,)] = self._query(insert, key, known.unit.value, known.period.value)
        return int(id_)

    def _window(
        self, id_: int, key: str, now_ms: int, known: Counter | None
    ) -> tuple[int, str, int]:
        """Find the window that calls go to now, as the books do: the latest that has not ended."""
        query = (
            "SELECT starts_ms, label, spent FROM windows WHERE counter = ? AND ends_ms > ?"
            " ORDER BY starts_ms DESC LIMIT 1"
        )
        for starts_ms, label, spent in self._query(query, id_, now_ms):
            return starts_ms, label, spent
        if known is None:
            raise StoreError(
                f"nothing was spent of {key} in its window yet: give --strategy, which says when"
                " its window ends"
            )
        window = self._calendar(known, now_ms)
        self._db.execute(
            "INSERT INTO windows (counter, starts_ms, ends_ms, label, spent, held)"
            " VALUES (?, ?, ?, ?, 0, 0)",
            (id_, window.starts_ms, window.ends_ms, window.id),
        )
        return window.starts_ms, window.id, 0


class _Transaction:
    """A transaction that has the right to write from its begin on."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _open(path: str) -> apsw.Connection:
    handle = None
    with suppress(StoreError):  # a server has it: then its version must be ours
        handle = lock(path)
    if handle is not None:
        try:
            return connect(path, None)
        finally:
            os.close(handle)
    check_library(apsw.sqlite_lib_version())
    db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        db.set_busy_timeout(BUSY_MS)
        _check(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: apsw.Connection, path: str) -> None:
    if scalar(db, "PRAGMA application_id") != APPLICATION_ID:
        raise StoreError(f"{path} is a database of another program; it was left as it is")
    if scalar(db, "PRAGMA user_version") != len(MIGRATIONS):
        raise StoreError(f"{path} is served by another version of escalade: use its command")
