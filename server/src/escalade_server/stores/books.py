"""The authoritative rows of the SQLite store, read and changed inside its transactions.

Rows are cached while nobody else writes; ``begin`` notices when somebody did (P20). Orders change
the cached rows by the rules of ``core.ledger``; ``commit`` writes all changes of a batch in a few
statements, because each statement gives the interpreter's lock away and may wait for it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import MappingProxyType

import apsw

from escalade_server.core import ledger
from escalade_server.core.alerting import Mark
from escalade_server.core.catalog import Billing, Counter
from escalade_server.core.commands import Candidate, Reserve, SetBench, Settle
from escalade_server.core.events import Repeated, Reserved
from escalade_server.core.failure import HOUR_MS, MINUTE_MS
from escalade_server.core.ledger import Amounts
from escalade_server.core.standing import Balance, Bench, Denial
from escalade_server.core.task import Basis
from escalade_server.core.window import SPAN_MS
from escalade_server.engine.ports import Kept
from escalade_server.stores import claims, statements
from escalade_server.stores.board import Change
from escalade_server.stores.lease_rows import Leases, RowsOfBooks
from escalade_server.stores.leasing import Fold, Folded
from escalade_server.stores.rows import BOOKING, Reservation, Row, State
from escalade_server.stores.shelf import Shelf

KEPT_MS = 25 * HOUR_MS
"""A settled reservation is remembered this long after its admission (R27, R32: 24 h)."""
PURGE_EVERY_MS = MINUTE_MS
PURGE_ROWS = 1_000


class Books(Shelf):
    """All counters, open reservations and benches of one file."""

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
        if self._crew is not None:
            self._crew.live(self._owner)
        for counter in self._labelled.values():
            self._account(counter)
        for order in owed:
            with suppress(ValueError):  # out of range: it was refused then, too
                self.settle(order, self._now_ms)
        self._bury(alone=self._crew is None or self._crew.first)
        self.sweep()
        self._look_at_all()
        self.commit()

    def _bury(self, *, alone: bool = False) -> None:
        """Book in full what dead owners left open, and take over what they left in doubt (C6).

        ``alone`` says that no other owner can live.
        """
        crew, me = self._crew, self._owner
        owners = self._query("SELECT id FROM owners WHERE id <> ?", me)
        dead = {id_ for (id_,) in owners if alone or (crew is not None and crew.is_dead(id_))}
        if not dead and not alone:
            return
        for found in self._reservations(statements.UNSETTLED, State.ASSUMED):
            if found.owner == me or not (alone or found.owner in dead):
                continue
            left = self._met.get(found.id) or self._open.get(found.id) or found
            if left.state is State.OPEN:
                self._assume(left)
            elif left.state is State.UNCERTAIN:
                self._uncertain[left.id] = left.resolve_at_ms
                self._query(statements.TAKE_OVER, me, left.number)
        self._query("DELETE FROM owners WHERE id IN (SELECT value FROM json_each(?))",
                    json.dumps(sorted(dead)))  # fmt: skip
        self.leases.assume(me, None if alone else dead)

    def adopt(self, counters: Iterable[Counter], marks: Mapping[str, Sequence[Mark]]) -> None:
        """Go on with the counters and marks of another strategy; what is booked stays (R18)."""
        self._marks, self._labelled = marks, {counter.key: counter for counter in counters}
        for row in list(self._rows.values()):
            key, of_row = row.account.key, marks.get(row.account.key)
            row.mark = self.feed.next_mark(key, row.balance.window, of_row) if of_row else None
        self._look_at_all()

    # ------------------------------------------------------------------ one batch of orders

    def begin(self, ids: Iterable[str], requests: Iterable[tuple[str, str]] = ()) -> None:
        """Begin a transaction that will meet these reservations, and these agents' request ids."""
        self._db.execute("BEGIN IMMEDIATE")
        version = self._db.execute("PRAGMA data_version").get
        if version != self._version:
            self._load()
            self._version = version
        self._meet(ids, list(requests))

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
        if self._crew is not None and self._crew.lead():
            return True  # somebody may have died
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
            if repeated is None and any(map(self._runs_elsewhere, before)):
                repeated = Repeated(order.attempt, runs=True)
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

    def fold(self, order: Fold, now_ms: int) -> Folded:
        """Bring a lease up to date; see ``stores.leasing``.

        Raises:
            ValueError: an amount is out of range; nothing is changed.
        """
        self._now_ms = max(self._now_ms, now_ms)
        return self.leases.fold(order, self._owner, self._now_ms)

    @cached_property
    def leases(self) -> Leases:
        """What is held for processes that spend it themselves."""
        rows = RowsOfBooks(
            self._current, self._rows_of, self._put_and_tell, self._balance, self.roll_up
        )
        return Leases(self._db, rows)

    def may_hold(self, reservation_id: str) -> bool:
        """Tell whether it is open as far as is known, or its batch came as far as its commit."""
        unsure = self._crew is not None or not self._is_loaded
        return unsure or reservation_id in self._open

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
        due = [id_ for id_, at_ms in self._uncertain.items() if at_ms <= now_ms]
        self._meet(id_ for id_ in due if id_ not in self._met)
        for id_ in due:
            reservation = self._find(id_)
            if reservation is not None and reservation.state is State.UNCERTAIN:
                self._assume(reservation)
            self._uncertain.pop(id_, None)
        if self._crew is not None and not self._crew.lead():
            return
        if self._crew is not None and self._owner:
            self._bury()
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
            self.leases.purge(now_ms)
            self.roll_up.purge(now_ms)
            self.sessions.purge(now_ms)
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
            self._look_at(row)

    def _put_and_tell(self, row: Row, balance: Balance) -> None:
        self._put(row, balance)
        self._look_at(row)

    def _look_at_all(self) -> None:
        """A limit that was lowered may have passed marks; a full counter meets no settlement."""
        for row in list(self._rows.values()):
            self._look_at(row)

    def _look_at(self, row: Row) -> None:
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
            self._uncertain[id_] = reservation.resolve_at_ms
        else:
            self._uncertain.pop(id_, None)

    def _put(self, row: Row, balance: Balance) -> None:
        row.balance = balance
        self._dirty.add(row)

    def _runs_elsewhere(self, claim: Reservation) -> bool:
        """Tell whether another process works on a request: in this one its engine would know."""
        if self._crew is None or claim.state is not State.OPEN or claim.owner == self._owner:
            return False
        return not self._crew.is_dead(claim.owner)
