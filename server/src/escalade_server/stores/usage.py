"""Each day's use in the SQLite store, added up in the transactions of the books (R15).

All of it is sums: what a batch adds is gathered, and written in one statement a table when the
batch is. Nothing is read for that, so it holds whoever else writes. The reports read on a
connection of their own, which stands in nobody's way.
"""

from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from operator import add, sub
from typing import Any, Protocol, TypeVar

import apsw

from escalade_server.core.catalog import Counter, CounterScope, Period, Unit
from escalade_server.core.commands import Settle
from escalade_server.core.ledger import NOTHING, Amounts
from escalade_server.core.tally import Tally
from escalade_server.core.task import Basis
from escalade_server.core.window import Window
from escalade_server.engine.ports import StoreError
from escalade_server.engine.usage import KEPT_DAYS, ChangeCount, UsageRow, UsageTables, Use
from escalade_server.stores.statements import Upsert

T = TypeVar("T")
UseKey = tuple[str, str, str, str, str]
"""Day of admission, layer, model, agent, type of task."""
BUSY_MS = 5_000
_FIELDS = Use._fields
_ADDED = ", ".join(f"{name} = {name} + excluded.{name}" for name in _FIELDS)
_SUMS = ", ".join(f"sum({name})" for name in _FIELDS)
_USE = Upsert(
    5 + len(_FIELDS),
    f"""
INSERT INTO usage VALUES $ROWS
ON CONFLICT (day, layer, model, agent, task_type) DO UPDATE SET {_ADDED}
""",  # noqa: S608 - names of our own
)
_CHANGES = Upsert(
    6,
    """
INSERT INTO usage_changes VALUES $ROWS
ON CONFLICT (day, agent, from_layer, to_layer, reason) DO UPDATE SET times = times + excluded.times
""",
)
_BASELINES = Upsert(
    4,
    """
INSERT INTO usage_baselines VALUES $ROWS
ON CONFLICT (day, agent, model) DO UPDATE SET nanos = nanos + excluded.nanos
""",
)
_SPAN = "day >= ? AND day < ? AND (? OR agent = ?)"
_BY_USE = (
    f"SELECT layer, model, agent, task_type, {_SUMS} FROM usage WHERE {_SPAN} GROUP BY 1, 2, 3, 4"  # noqa: S608 - names of our own
)
_BY_DAY = f"SELECT day, {_SUMS} FROM usage WHERE {_SPAN} GROUP BY 1 ORDER BY 1"  # noqa: S608 - as above
_BY_CHANGE = f"""
SELECT from_layer, to_layer, reason, sum(times) FROM usage_changes WHERE {_SPAN}
GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3
"""  # noqa: S608 - as above
_BY_BASELINE = f"SELECT model, sum(nanos) FROM usage_baselines WHERE {_SPAN} GROUP BY 1 ORDER BY 1"  # noqa: S608 - as above
_UNREPORTED = """
SELECT DISTINCT day FROM usage
WHERE day >= ? AND day < ? AND day NOT IN (SELECT day FROM reports) ORDER BY day
"""
TABLES = ("usage", "usage_changes", "usage_baselines", "reports")


class Booked(Protocol):
    """What is read of a reservation."""

    day: str
    layer: str
    model: str
    agent: str
    task_type: str
    metered: bool
    used: Amounts


class Sums:
    """What is to be added to the days: sums only, so they are added up in any order."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.use: dict[UseKey, tuple[int, ...]] = {}
        self.changes: dict[tuple[str, str, str, str, str], int] = {}
        self.baselines: dict[tuple[str, str, str], int] = {}

    def __bool__(self) -> bool:
        return bool(self.use or self.changes or self.baselines)

    def book(self, kept: Booked, used: Amounts, order: Settle | None) -> None:
        """Add what a reservation is booked with, less what it was booked with before.

        Without an order it is booked in full, because nobody tells.
        """
        tally = None
        if order is None:
            added = _assumed(used, metered=kept.metered)
        else:
            tally = order.tally
            added = _told(order)
        if tally is not None:
            added += _counted(tally)
            self._compare(tally, kept.day)
        before = kept.used
        if before is not NOTHING and before != NOTHING:
            less = _assumed(before, metered=kept.metered)
            added = (*map(sub, added, less), *added[len(less) :])
        elif not added[0] and not any(added):
            return
        self._add((kept.day, kept.layer, kept.model, kept.agent, kept.task_type), added)

    def count(self, tally: Tally, day: str) -> None:
        """Add one task that no settlement counts."""
        key = (day, tally.layer, tally.model, tally.agent, tally.task_type)
        self._add(key, _NO_CALL + _counted(tally))
        self._compare(tally, day)

    def plus(self, other: "Sums") -> None:
        """Add others."""
        for key, added in other.use.items():
            self._add(key, added)
        for change, times in other.changes.items():
            self.changes[change] = self.changes.get(change, 0) + times
        for baseline, nanos in other.baselines.items():
            self.baselines[baseline] = self.baselines.get(baseline, 0) + nanos

    def clear(self) -> None:
        """Forget what was added: it is written, or undone."""
        self.use.clear()
        self.changes.clear()
        self.baselines.clear()

    def _add(self, key: UseKey, added: tuple[int, ...]) -> None:
        if len(added) < _WIDTH:
            added += _NO_TASK
        sums = self.use.get(key)
        self.use[key] = added if sums is None else tuple(map(add, sums, added))

    def _compare(self, tally: Tally, day: str) -> None:
        agent = tally.agent
        for change in tally.escalations:
            at = (day, agent, *change)
            self.changes[at] = self.changes.get(at, 0) + 1
        for model, nanos in tally.baselines:
            of = (day, agent, model)
            self.baselines[of] = self.baselines.get(of, 0) + nanos


class RollUp(Sums):
    """What the batch at work adds to the days; used inside the books' transactions."""

    def __init__(
        self, connection: apsw.Connection, calendar: Callable[[Counter, int], Window], zone: str
    ) -> None:
        """Take the books' connection; days begin and end in ``zone``."""
        super().__init__()
        self._db = connection
        self._calendar = calendar
        self._days = days_in(zone)

    def day(self, now_ms: int) -> str:
        """Answer the date of an instant."""
        return self._calendar(self._days, now_ms).id

    def write(self) -> None:
        """Write all that was added."""
        if self.use:
            _USE.write(self._db, [(*key, *sums) for key, sums in self.use.items()])
        if self.changes:
            _CHANGES.write(self._db, [(*key, times) for key, times in self.changes.items()])
        if self.baselines:
            _BASELINES.write(self._db, [(*key, nanos) for key, nanos in self.baselines.items()])
        self.clear()

    def purge(self, now_ms: int) -> None:
        """Drop what is too old."""
        oldest = date.fromisoformat(self.day(now_ms)) - timedelta(days=KEPT_DAYS)
        for table in TABLES:
            self._db.execute(f"DELETE FROM {table} WHERE day < ?", (oldest.isoformat(),))  # noqa: S608 - names of our own

    def keep_report(self, day: str, report: str, now_ms: int) -> bool:
        """Keep a report unless there is one."""
        values = (day, now_ms, report)
        self._db.execute("INSERT OR IGNORE INTO reports VALUES (?, ?, ?)", values)
        return self._db.changes() > 0


def days_in(zone: str) -> Counter:
    """Make a counter of a day in a zone, for its calendar."""
    return Counter("usage", Unit.REQUESTS, Period.DAY, 0, CounterScope.STRATEGY, "usage", zone)


_WIDTH = len(_FIELDS)
_NO_CALL = (0,) * _FIELDS.index("tasks")
_NO_TASK = (0,) * (_WIDTH - len(_NO_CALL))


def _counted(tally: Tally) -> tuple[int, ...]:
    """Write the rest of ``Use``, from ``tasks`` on."""
    return 1, 0 if tally.model else 1, tally.fallbacks, tally.waits, tally.waited_ms


def _told(order: Settle) -> tuple[int, ...]:
    """Write a settlement in the order of ``Use``, as far as attempts are concerned."""
    use = order.usage
    known = order.basis is Basis.REPORTED
    return (
        order.requests, use.input_tokens, use.cached_tokens, use.cache_write_tokens,
        use.output_tokens, use.reasoning_tokens, order.tokens - use.total_tokens, order.nanos,
        order.charged_nanos, 0 if known else order.nanos,
    )  # fmt: skip


def _assumed(used: Amounts, *, metered: bool) -> tuple[int, ...]:
    """Write the same of what is booked in full: nothing of it is known."""
    requests, tokens, nanos = used
    return requests, 0, 0, 0, 0, 0, tokens, nanos, nanos if metered else 0, nanos


def read(connection: apsw.Connection, begin: str, end: str, agent: str | None) -> UsageTables:
    """Sum up the days from ``begin`` to the day before ``end``."""
    span = (begin, end, agent is None, agent or "")

    def rows(sql: str) -> list[tuple[Any, ...]]:
        return connection.execute(sql, span).fetchall()

    connection.execute("SAVEPOINT look")  # one instant for all of them
    try:
        [(first,)] = connection.execute("SELECT ifnull(min(day), '') FROM usage").fetchall()
        return UsageTables(
            tuple(
                [
                    UsageRow(layer, model, who, kind, Use(*sums))
                    for layer, model, who, kind, sums in _split(rows(_BY_USE), 4)
                ]
            ),
            tuple([(day, Use(*sums)) for day, sums in _split(rows(_BY_DAY), 1)]),
            tuple([ChangeCount(*row) for row in rows(_BY_CHANGE)]),
            tuple([(model, nanos) for model, nanos in rows(_BY_BASELINE)]),
            str(first),
        )
    finally:
        connection.execute("RELEASE look")


def _split(rows: list[tuple[Any, ...]], keys: int) -> list[tuple[Any, ...]]:
    """Keep the first columns, and put the rest into one."""
    return [(*row[:keys], row[keys:]) for row in rows]


def unreported(connection: apsw.Connection, begin: str, end: str) -> tuple[str, ...]:
    """List the days that saw any use and have no report."""
    return tuple([str(day) for (day,) in connection.execute(_UNREPORTED, (begin, end))])


def read_file(path: str, vfs: str | None, reader: Callable[[apsw.Connection], T]) -> T:
    """Read a file that others write meanwhile, on a connection of its own.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY, vfs=vfs)
        with closing(connection):
            connection.set_busy_timeout(BUSY_MS)
            return reader(connection)
    except apsw.Error as error:
        raise StoreError(f"the use in {path} cannot be read: {error}") from error
