"""The authoritative rows of the SQLite store, read and changed inside its transactions.

Rows are cached while nobody else writes; ``begin`` notices when somebody did (P20). Orders change
the cached rows by the rules of ``core.ledger``; ``commit`` writes all changes of a batch in a few
statements, because each statement gives the interpreter's lock away and may wait for it.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

import apsw

from escalade_server.core import ledger
from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Billing, Counter, Period, Unit
from escalade_server.core.commands import Candidate, Reserve, SetBench, Settle
from escalade_server.core.events import Repeated, Reserved
from escalade_server.core.failure import HOUR_MS, MINUTE_MS, FailureClass
from escalade_server.core.ledger import Amounts
from escalade_server.core.standing import Balance, Bench, Denial
from escalade_server.core.task import Basis
from escalade_server.core.window import SLICES, SPAN_MS, Window, slice_at, total
from escalade_server.engine.ports import Kept, StoreError
from escalade_server.stores import claims, statements
from escalade_server.stores.board import Change
from escalade_server.stores.feed import Feed
from escalade_server.stores.rows import BOOKING, Account, Reservation, Row, State
from escalade_server.stores.usage import RollUp

KEPT_MS = 25 * HOUR_MS
"""A settled reservation is remembered this long after its admission (R27, R32: 24 h)."""
PURGE_EVERY_MS = MINUTE_MS
PURGE_ROWS = 1_000


class Books:
    """All counters, open reservations and benches of one file."""

    def __init__(
        self,
        connection: apsw.Connection,
        calendar: Callable[[Counter, int], Window],
        now_ms: int,
        zone: str = "UTC",
    ) -> None:
        """Take a migrated connection, which from now on only this object uses.

        ``zone`` is that of the days in reports.
        """
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
        self._uncertain: dict[str, Reservation] = {}
        self._benches: dict[str, Bench] = {}
        # Of the batch at work: reservations met and changed, rows changed, accounts to publish.
        self._met: dict[str, Reservation] = {}
        self._claims: dict[tuple[str, str], list[Reservation]] = {}
        self._changed: dict[str, Reservation] = {}
        self._dirty: set[Row] = set()
        self._seen: dict[int, Account] = {}
        self._benches_changed = False
        self.feed = Feed(connection)
        self._marks: Mapping[str, Sequence[Mark]] = {}
        self._labelled: dict[str, Counter] = {}

    def open(
        self,
        counters: Iterable[Counter],
        owed: Sequence[Settle] = (),
        marks: Mapping[str, Sequence[Mark]] = MappingProxyType({}),
    ) -> None:
        """Become the owner, book what is ``owed``, and in full what dead owners left (C6, X1, X2).

        From ``marks`` on, by a counter's key, the feed is told what is spent.

        Raises:
            StoreError: a counter's key was used for another unit or period before.
        """
        self._marks = marks
        self._labelled = {counter.key: counter for counter in counters}
        self.begin(order.reservation_id for order in owed)
        newest = "INSERT INTO owners (opened_ms) VALUES (?) RETURNING id"
        [(self._owner,)] = self._query(newest, self._now_ms)
        self._query("DELETE FROM owners WHERE id < ?", self._owner)
        for counter in self._labelled.values():
            self._account(counter)
        for order in owed:
            with suppress(ValueError):  # out of range: it was refused then, too
                self.settle(order, self._now_ms)
        for reservation in list(self._open.values()):
            if reservation.state is State.OPEN and reservation.owner != self._owner:
                self._assume(reservation)
        self.sweep()
        self.commit()

    def adopt(self, counters: Iterable[Counter], marks: Mapping[str, Sequence[Mark]]) -> None:
        """Go on with the counters and marks of another strategy; what is booked stays (R18)."""
        self._marks, self._labelled = marks, {counter.key: counter for counter in counters}
        for row in list(self._rows.values()):
            key, of_row = row.account.key, marks.get(row.account.key)
            row.mark = self.feed.next_mark(key, row.balance.window, of_row) if of_row else None

    # ------------------------------------------------------------------ one batch of orders

    def begin(self, ids: Iterable[str], requests: Iterable[tuple[str, str]] = ()) -> None:
        """Begin a transaction that will meet these reservations, and these agents' request ids."""
        self._db.execute("BEGIN IMMEDIATE")
        version = self._db.execute("PRAGMA data_version").get
        if version != self._version:
            self._load()
            self._version = version
        unknown = [id_ for id_ in ids if id_ not in self._open]
        requests = list(requests)
        if unknown or requests:
            looked_for = json.dumps(unknown), json.dumps(requests)
            for found in self._reservations(statements.MET, *looked_for):
                known = self._met[found.id] = self._open.get(found.id, found)
                if known.request_id:
                    self._claims.setdefault((known.agent, known.request_id), []).append(known)

    def commit(self) -> None:
        """Write what changed and make it durable."""
        statements.RESERVATIONS.write(self._db, [
            (r.number, r.id, r.owner, r.model, r.position, r.state, r.reserved.tokens,
             r.reserved.nanos, r.windows, r.admitted_ms, r.resolve_at_ms, *r.used, r.agent,
             r.routed, r.digest, r.request_id, r.content, r.figures, r.day, r.layer, r.task_type,
             r.metered)
            for r in self._changed.values()
        ])  # fmt: skip
        statements.WINDOWS.write(self._db, [
            (r.account.id, r.starts_ms, r.balance.ends_ms, r.balance.window, r.balance.spent,
             r.balance.held)
            for r in self._dirty
        ])  # fmt: skip
        self.roll_up.write()
        self._db.execute("COMMIT")
        self._seen.update({row.account.id: row.account for row in self._dirty})
        self._changed.clear()
        self._dirty.clear()
        self._met.clear()
        self._claims.clear()

    def roll_back(self) -> None:
        """Undo the batch; the rows are read again with the next one."""
        self._version = None
        self.roll_up.clear()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def changes(self) -> tuple[list[Change], dict[str, Bench] | None]:
        """Answer, once, what others should see: counters, and all benches if any changed."""
        changes = [
            (account.key, tuple([row.balance for row in account.live]))
            for account in self._seen.values()
        ]
        self._seen.clear()
        benches = dict(self._benches) if self._benches_changed else None
        self._benches_changed = False
        return changes, benches

    @property
    def is_waiting(self) -> bool:
        """Whether there is what no order brings: a doubtful reservation, an operator's word."""
        with suppress(apsw.Error):  # the next batch says it
            return bool(self._uncertain) or self._is_stale
        return True

    @property
    def _is_stale(self) -> bool:
        """Whether another process has written (``stores.audit``)."""
        return bool(self._db.execute("PRAGMA data_version").get != self._version)

    # ---------------------------------------------------------------------------- the orders

    def reserve(self, order: Reserve, now_ms: int) -> Reserved | Repeated | list[Denial]:
        """Hold the first candidate with room everywhere; else say why not, one by one (P20).

        Raises:
            ValueError: a bound is out of range; nothing is held.
        """
        self._now_ms = max(self._now_ms, now_ms)
        known = self._find(order.reservation_id)
        if known is not None:
            return Reserved(order.attempt, known.position, known.denials)
        if order.request_id:
            before = self._claims.get((order.agent, order.request_id), ())
            repeated = claims.repeated(before, order, self._now_ms)
            if repeated is not None:
                return repeated
        denials: list[Denial] = []
        for candidate in order.candidates:
            rows = [self._current(counter) for counter in candidate.counters]
            denial = ledger.denial(candidate, [self._balance(row) for row in rows])
            if denial is None:
                self._hold(order, candidate, tuple(rows), tuple(denials))
                return Reserved(order.attempt, candidate.model.position, tuple(denials))
            denials.append(denial)
        return denials

    def settle(self, order: Settle, now_ms: int) -> None:
        """Book a reservation in its windows of admission (T1); an unknown id holds nothing.

        Raises:
            ValueError: an amount is out of range; the full reserve stays held.
        """
        self._now_ms = max(self._now_ms, now_ms)
        known = self._find(order.reservation_id)
        if known is None or known.state is State.SETTLED or known.digest:
            if known is not None and order.figures is not None and not known.digest:
                known.figures = claims.text_of(order.figures)  # its answer stands in (R21)
                self._become(known, State.SETTLED)
            return
        known.figures = claims.text_of(order.figures)
        if order.hold_until_ms is not None:
            if known.state is not State.ASSUMED:
                known.resolve_at_ms, known.digest = order.hold_until_ms, order.digest
                self._become(known, State.UNCERTAIN)
            return
        used = Amounts(order.requests, order.tokens, order.nanos).checked()
        self._book(known, used, order)
        known.digest = order.digest
        self._become(known, State.ASSUMED if order.basis is Basis.RESERVED else State.SETTLED)

    def may_hold(self, reservation_id: str) -> bool:
        """Tell whether it is open as far as is known, or its batch came as far as its commit."""
        return not self._is_loaded or reservation_id in self._open

    def find(self, reservation_id: str) -> Kept | None:
        """Look a reservation up; one held in doubt counts as open."""
        known = self._find(reservation_id)
        if known is None:
            return None
        return Kept(
            known.id, known.model, known.agent, bool(known.routed), BOOKING[known.state],
            known.digest, known.admitted_ms, known.reserved.tokens, known.reserved.nanos,
            known.used.tokens, known.used.nanos,
        )  # fmt: skip

    def bench(self, order: SetBench, now_ms: int) -> None:
        """Set something aside; the later end of old and new wins, and an end of 0 clears it."""
        self._now_ms = max(self._now_ms, now_ms)
        old = self._benches.get(order.key)
        if not order.bench.until_ms:
            self._benches.pop(order.key, None)
            self._benches_changed = True
            self._query("DELETE FROM benches WHERE key = ?", order.key)
            return
        if old is not None and old.until_ms >= order.bench.until_ms:
            return
        new = self._benches[order.key] = order.bench
        self._benches_changed = True
        self._query(statements.PUT_BENCH, order.key, new.until_ms, new.cls.value, new.detail)

    def sweep(self, now_ms: int = 0) -> None:
        """Do what time alone brings: uncertain reservations are booked, old rows dropped."""
        now_ms = self._now_ms = max(self._now_ms, now_ms)
        for reservation in [r for r in self._uncertain.values() if r.resolve_at_ms <= now_ms]:
            self._assume(reservation)
        if now_ms < self._purge_at_ms:
            return
        over = [key for key, bench in self._benches.items() if bench.until_ms <= now_ms]
        for key in over:
            del self._benches[key]
            self._benches_changed = True
        self._query("DELETE FROM benches WHERE until_ms <= ?", now_ms)
        self._query(statements.DROP_SLICES, now_ms, json.dumps([span.value for span in SPAN_MS]))
        self._query(statements.DROP_RESERVATIONS, PURGE_ROWS, State.ASSUMED, now_ms - KEPT_MS)
        if self._db.changes() < PURGE_ROWS:
            self.roll_up.purge(now_ms)
            self._purge_at_ms = now_ms + PURGE_EVERY_MS
        self.feed.purge(now_ms)

    # ------------------------------------------------------------------------- how it is done

    def _hold(
        self, order: Reserve, candidate: Candidate, rows: tuple[Row, ...],
        denials: tuple[Denial, ...],
    ) -> None:  # fmt: skip
        reserved = ledger.bounds(candidate).checked()
        model = candidate.model
        for row in rows:
            self._put(row, ledger.hold(row.balance, reserved[row.account.column]))
        windows = " ".join([f"{row.account.id}:{row.starts_ms}" for row in rows])
        reservation = Reservation(
            self._next, order.reservation_id, self._owner, model.key, model.position, State.OPEN,
            reserved, rows, windows, self._now_ms, order.agent, order.routed,
            self.roll_up.day(self._now_ms), model.layer, order.task_type,
            model.billing is Billing.METERED, request_id=order.request_id, content=order.content,
            denials=denials,
        )  # fmt: skip
        if order.request_id:
            same = self._claims.setdefault((order.agent, order.request_id), [])
            same.append(reservation)
        self._next += 1
        self._become(reservation, State.OPEN)

    def _assume(self, reservation: Reservation) -> None:
        """Nobody tells what it used: book it in full."""
        self._book(reservation, reservation.reserved, None)
        self._become(reservation, State.ASSUMED)

    def _book(self, reservation: Reservation, used: Amounts, order: Settle | None) -> None:
        self.roll_up.book(reservation, used, order)
        if reservation.state is State.ASSUMED:
            difference = used.minus(reservation.used)
            for row in reservation.rows:
                self._put(row, ledger.correct(row.balance, difference[row.account.column]))
        else:
            for row in reservation.rows:
                column = row.account.column
                held = reservation.reserved[column]
                self._put(row, ledger.settle(row.balance, held, used[column]))
        reservation.used = used
        for row in reservation.rows:
            if row.mark is not None and row.balance.spent >= row.mark:
                self._tell(row)

    def _tell(self, row: Row) -> None:
        """Tell, in this transaction, which marks a window that still lasts has passed."""
        key, balance = row.account.key, row.balance
        marks = self._marks[key]
        if balance.ends_ms > self._now_ms:
            self.feed.pass_marks(self._labelled[key], balance, marks, self._now_ms)
        row.mark = self.feed.next_mark(key, balance.window, marks)

    def _become(self, reservation: Reservation, state: State) -> None:
        reservation.state = state
        id_ = reservation.id
        self._changed[id_] = self._met[id_] = reservation
        if state is State.OPEN or state is State.UNCERTAIN:
            self._open[id_] = reservation
        else:
            self._open.pop(id_, None)
        if state is State.UNCERTAIN:
            self._uncertain[id_] = reservation
        else:
            self._uncertain.pop(id_, None)

    def _put(self, row: Row, balance: Balance) -> None:
        row.balance = balance
        self._dirty.add(row)

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
            self._accounts, self._by_id, self._rows, self._open, self._uncertain, self._met,
            self._changed, self._dirty, self._claims,
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
        for found in self._reservations(statements.UNSETTLED, State.ASSUMED):
            self._open[found.id] = found
            if found.state is State.UNCERTAIN:
                self._uncertain[found.id] = found
        [(last,)] = self._query("SELECT ifnull(max(number), 0) FROM reservations")
        self._next = last + 1
        self._benches = {
            key: Bench(until_ms, FailureClass(cls), detail)
            for key, until_ms, cls, detail in self._query("SELECT * FROM benches")
        }
        self._is_loaded = True

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
