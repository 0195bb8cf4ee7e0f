"""What is known by heart of the SQLite file, and read anew when somebody else has written (P20).

Of a file of one process that is everything that still counts; of one that several write, the
counters and cooldowns: reservations are read as they are met.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import apsw

from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Counter, Period, Unit
from escalade_server.core.failure import FailureClass
from escalade_server.core.ledger import Amounts
from escalade_server.core.standing import Balance, Bench
from escalade_server.core.window import SLICES, Window, slice_at, total
from escalade_server.engine.ports import StoreError
from escalade_server.stores import statements
from escalade_server.stores.crew import Crew
from escalade_server.stores.feed import Feed
from escalade_server.stores.rows import Account, Reservation, Row, State
from escalade_server.stores.sessions import SessionTable
from escalade_server.stores.usage import RollUp


class Shelf:
    """The cached rows, and those of the batch at work; ``Books`` changes them."""

    def __init__(
        self,
        connection: apsw.Connection,
        calendar: Callable[[Counter, int], Window],
        now_ms: int,
        zone: str = "UTC",
        crew: Crew | None = None,
    ) -> None:
        """Take a migrated connection, which from now on only this object uses.

        ``zone`` is that of the days in reports. With a ``crew`` others write the file, too: then
        only counters are known by heart, and reservations are read as they are met.
        """
        self._crew = crew
        self.roll_up = RollUp(connection, calendar, zone)
        self._db = connection
        self._calendar = calendar
        self._now_ms = now_ms
        self._purge_at_ms = 0
        self._version: object = None
        self._is_loaded = False
        self._owner = 0
        self._next = 1
        self._accounts: dict[str, Account] = {}
        self._by_id: dict[int, Account] = {}
        self._rows: WeakValueDictionary[tuple[int, int], Row] = WeakValueDictionary()
        self._open: dict[str, Reservation] = {}
        self._uncertain: dict[str, int] = {}
        """When they are due; of a crew, this owner's own."""
        self._benches: dict[str, Bench] = {}
        # Of the batch at work: reservations met and changed, rows changed, accounts to publish.
        self._met: dict[str, Reservation] = {}
        self._claims: dict[tuple[str, str], list[Reservation]] = {}
        self._changed: dict[str, Reservation] = {}
        self._dirty: set[Row] = set()
        self._seen: dict[int, Account] = {}
        self._benches_changed = False
        self.feed = Feed(connection)
        self.sessions = SessionTable(connection)
        self._marks: Mapping[str, Sequence[Mark]] = {}
        self._labelled: dict[str, Counter] = {}

    def _meet(self, ids: Iterable[str], requests: Sequence[tuple[str, str]] = ()) -> None:
        unknown = [id_ for id_ in ids if id_ not in self._open]
        if unknown or requests:
            looked_for = json.dumps(unknown), json.dumps(requests)
            for found in self._reservations(statements.MET, *looked_for):
                known = self._met[found.id] = self._open.get(found.id, found)
                if known.request_id:
                    self._claims.setdefault((known.agent, known.request_id), []).append(known)

    def _find(self, id_: str) -> Reservation | None:
        return self._open.get(id_) or self._met.get(id_)

    def _balance(self, row: Row) -> Balance:
        live = row.account.live
        if len(live) == 1:
            return row.balance
        return total([part.balance for part in live], self._now_ms) or row.balance

    def _current(self, counter: Counter) -> Row:
        """Answer the row that admissions go to now.

        It never moves back: a calendar window lasts until its end, whatever a clock or a changed
        zone says, and a slice is followed by a later one only (T4, C9).
        """
        account = self._accounts.get(counter.key)
        if (
            account is None
            or account.period is not counter.period
            or account.unit is not counter.unit
        ):
            account = self._account(counter)
        live = account.live
        now_ms = self._now_ms
        while live and live[0].balance.ends_ms <= now_ms:
            del live[0]
        if live and now_ms < live[-1].admits_to_ms:
            return live[-1]
        window = (
            slice_at(counter.period, now_ms) if account.sliding else self._calendar(counter, now_ms)
        )
        row = self._row(account, window.starts_ms, Balance(window.id, 0, 0, window.ends_ms))
        live.append(row)
        return row

    def _row(self, account: Account, starts_ms: int, balance: Balance) -> Row:
        admits_to_ms = balance.ends_ms
        if account.sliding:
            admits_to_ms = starts_ms + (admits_to_ms - starts_ms) // (SLICES + 1)
        row = Row(account, starts_ms, admits_to_ms, balance)
        marks = self._marks.get(account.key)
        if marks:
            row.mark = self.feed.next_mark(account.key, balance.window, marks)
        self._rows[account.id, starts_ms] = row
        return row

    def _account(self, counter: Counter) -> Account:
        """Open the account of a counter, new in the file if need be."""
        query = "SELECT id, unit, period FROM counters WHERE key = ?"
        found = self._query(query, counter.key)
        now = (counter.unit.value, counter.period.value)
        if not found:
            insert = "INSERT INTO counters (key, unit, period) VALUES (?, ?, ?) RETURNING id"
            [(id_,)] = self._query(insert, counter.key, *now)
            account = Account(id_, counter.key, counter.unit, counter.period, [])
            self._accounts[counter.key] = self._by_id[id_] = account
            return account
        [(_, unit, period)] = found
        if (unit, period) != now:
            raise StoreError(
                f"{counter.label}: kept so far as {unit} per {period}, now {now[0]} per"
                f" {now[1]} under the same key {counter.key!r}; a changed limit needs a new key"
            )
        return self._accounts[counter.key]

    # -------------------------------------------------------------------------------- reading

    def _query(self, sql: str, *bindings: str | int) -> list[tuple[Any, ...]]:
        """Answer all rows; the tables are STRICT, so their columns have the types they say."""
        return self._db.execute(sql, bindings).fetchall()

    def _load(self) -> None:
        """Read everything anew."""
        self._is_loaded = False
        self.feed.load()
        for cache in (
            self._accounts, self._by_id, self._rows, self._open, self._met, self._changed,
            self._dirty, self._claims,
        ):  # fmt: skip
            cache.clear()
        for id_, key, unit, period in self._query("SELECT * FROM counters"):
            account = Account(id_, key, Unit(unit), Period(period), [])
            self._accounts[key] = self._by_id[id_] = account
        live = "SELECT * FROM windows WHERE ends_ms > ? ORDER BY counter, starts_ms"
        for id_, starts_ms, ends_ms, label, spent, held in self._query(live, self._now_ms):
            account = self._by_id[id_]
            if not account.sliding:
                account.live.clear()  # two only after a clock went back: the later one holds
            balance = Balance(label, spent, held, ends_ms)
            account.live.append(self._row(account, starts_ms, balance))
        self._seen = dict(self._by_id)
        self._benches_changed = True
        if self._crew is None or self._version is None:
            self._load_unsettled()
        [(last,)] = self._query("SELECT ifnull(max(number), 0) FROM reservations")
        self._next = last + 1
        self._benches = {
            key: Bench(until_ms, FailureClass(cls), detail)
            for key, until_ms, cls, detail in self._query("SELECT * FROM benches")
        }
        self._is_loaded = True

    def _load_unsettled(self) -> None:
        self._uncertain.clear()
        for found in self._reservations(statements.UNSETTLED, State.ASSUMED):
            if self._crew is None:
                self._open[found.id] = found
            elif found.owner != self._owner:
                continue
            if found.state is State.UNCERTAIN:
                self._uncertain[found.id] = found.resolve_at_ms

    def _reservations(self, query: str, *bindings: str | int) -> list[Reservation]:
        return [
            Reservation(
                number, id_, owner, model, position, State(state), Amounts(1, tokens, nanos),
                self._rows_of(windows), windows, admitted_ms, agent, bool(routed), day, layer,
                task_type, bool(metered), digest, request_id, content, figures, resolve_at_ms,
                Amounts(*used),
            )
            for number, id_, owner, model, position, state, tokens, nanos, windows, admitted_ms,
                resolve_at_ms, agent, routed, digest, request_id, content, figures, day, layer,
                task_type, metered, *used in self._query(query, *bindings)
        ]  # fmt: skip

    def _rows_of(self, windows: str) -> tuple[Row, ...]:
        """Answer the rows of admission; slices that have been dropped are past caring."""
        rows = []
        for name in windows.split():
            id_, starts_ms = (int(part) for part in name.split(":"))
            row = self._rows.get((id_, starts_ms))
            if row is None:
                query = (
                    "SELECT ends_ms, label, spent, held FROM windows"
                    " WHERE counter = ? AND starts_ms = ?"
                )
                found = self._query(query, id_, starts_ms)
                if not found:
                    continue
                ends_ms, label, spent, held = found[0]
                balance = Balance(label, spent, held, ends_ms)
                row = self._row(self._by_id[id_], starts_ms, balance)
            rows.append(row)
        return tuple(rows)
