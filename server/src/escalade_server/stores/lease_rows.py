"""The leases of the SQLite store: one row each, read and changed inside the books' transactions.

A lease holds and books in the rows of the counters like a reservation. Rows are few and seldom
changed, so nothing of them is cached.
"""

import json
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import apsw

from escalade_server.core.catalog import Counter
from escalade_server.core.failure import DAY_MS, HOUR_MS
from escalade_server.core.leases import TTL_MS, Room, grant, highest, plus
from escalade_server.core.ledger import NOTHING, Amounts
from escalade_server.core.standing import Balance
from escalade_server.stores.leasing import Ending, Fold, Folded
from escalade_server.stores.rows import Row
from escalade_server.stores.usage import RollUp

KEPT_MS, LEFT_MS = 25 * HOUR_MS, 40 * DAY_MS
"""What a dead holder left can be told so much longer, by its journal."""
_READ = "SELECT seq, windows, held, granted, assumed, used FROM leases WHERE id = ?"
_LEFT = "SELECT id, owner, held FROM leases WHERE is_held AND owner <> ?"
_WRITE = "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ASSUME = """
UPDATE leases SET held = '[0,0,0]', assumed = ?, used = ?, is_held = 0 WHERE id = ?
"""
_DROP = """
DELETE FROM leases
WHERE NOT is_held AND told_ms <= CASE assumed WHEN '[0, 0, 0]' THEN ? ELSE ? END
"""
_NONE = "null"


class RowsOfBooks(NamedTuple):
    """What is needed of the books."""

    current: Callable[[Counter], Row]
    of: Callable[[str], tuple[Row, ...]]
    """The rows of a text ``counter:starts_ms ...``, as far as they are kept."""
    put: Callable[[Row, Balance], None]
    balance: Callable[[Row], Balance]
    """Of the whole window, of which the row may be a slice."""
    roll_up: RollUp


class Leases:
    """All leases of one file."""

    def __init__(self, connection: apsw.Connection, rows: RowsOfBooks) -> None:
        """Take the books' connection."""
        self._db = connection
        self._rows = rows

    def fold(self, order: Fold, owner: int, now_ms: int) -> Folded:
        """Do what is asked, unless it was done before; see ``Fold``.

        Raises:
            StoreError: a counter's key was used for another unit or period before.
            ValueError: an amount is out of range; nothing is changed.
        """
        order.keep.checked()
        [(replicas,)] = self._query("SELECT count(*) FROM owners")
        found = self._query(_READ, order.lease)
        held, assumed, booked = NOTHING, NOTHING, NOTHING
        if found:
            [(seq, windows, *texts)] = found
            rows = self._rows.of(windows)
            if order.seq <= seq:
                return _answer(rows, _granted(texts[1]), replicas, now_ms)
            held, assumed, booked = _read(texts[0]), _read(texts[2]), _read(texts[3])
        elif order.seq != 1 and order.granted is None:
            return Folded(None, 0, replicas)
        else:
            rows = tuple([self._rows.current(counter) for counter in order.counters])
            windows = " ".join([f"{row.account.id}:{row.starts_ms}" for row in rows])
        used = order.used
        if order.is_lost:
            used = highest(used, plus(held, assumed))
        self._change(rows, used.minus(assumed), order.keep.minus(held))
        self._rows.roll_up.plus(order.sums)
        granted = order.granted
        if granted is None:
            granted = self._grant(order, rows, replicas, now_ms)
        if granted is not None and any(granted):
            self._change(rows, NOTHING, granted)
        held, used = plus(order.keep, granted or NOTHING), plus(booked.minus(assumed), used)
        texts = [json.dumps(each) for each in (held, granted, NOTHING, used)]
        told = (order.lease, owner, order.seq, windows, *texts, any(held), now_ms)
        self._db.execute(_WRITE, told)
        return _answer(rows, granted, replicas, now_ms)

    def assume(self, owner: int, dead: Collection[int] | None) -> None:
        """Book in full what dead holders have left, until their journal tells better.

        None: all but ``owner`` are dead.
        """
        for id_, of, text in self._query(_LEFT, owner):
            if dead is None or of in dead:
                [(_, windows, _, _, _, used)] = self._query(_READ, id_)
                held = _read(text)
                self._change(self._rows.of(windows), held, NOTHING.minus(held))
                self._db.execute(_ASSUME, (text, json.dumps(plus(_read(used), held)), id_))

    def purge(self, now_ms: int) -> None:
        """Forget leases that nobody can say anything of any more."""
        self._db.execute(_DROP, (now_ms - KEPT_MS, now_ms - LEFT_MS))

    def _grant(
        self, order: Fold, rows: tuple[Row, ...], replicas: int, now_ms: int
    ) -> Amounts | None:
        wish = order.wish
        if not any(wish.most):
            return NOTHING
        limits = {counter.key: counter.limit for counter in order.counters}
        rooms = []
        for row in rows:
            if row.admits_to_ms <= now_ms or row.account.key not in limits:
                return None
            balance, limit = self._rows.balance(row), limits[row.account.key]
            free = limit - balance.spent - balance.held
            rooms.append(Room(row.account.column, limit, free))
        if len(rooms) < len(order.counters):
            return None
        return grant(rooms, replicas, wish)

    def _change(self, rows: tuple[Row, ...], spent: Amounts, held: Amounts) -> None:
        for row in rows:
            window, was_spent, was_held, ends_ms = row.balance
            column = row.account.column
            new = Balance(window, was_spent + spent[column], was_held + held[column], ends_ms)
            self._rows.put(row, new)

    def _query(self, sql: str, *bindings: str | int) -> list[tuple[Any, ...]]:
        return self._db.execute(sql, bindings).fetchall()


def _answer(rows: tuple[Row, ...], granted: Amounts | None, replicas: int, now_ms: int) -> Folded:
    admits_ms = min((row.admits_to_ms - now_ms for row in rows), default=TTL_MS)
    endings = [
        Ending(row.account.key, row.account.column, row.balance.ends_ms - now_ms) for row in rows
    ]
    return Folded(granted, max(admits_ms, 0), replicas, tuple(endings))


def _read(text: str) -> Amounts:
    return Amounts(*json.loads(text))


def _granted(text: str) -> Amounts | None:
    return None if text == _NONE else _read(text)
