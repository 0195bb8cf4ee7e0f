"""What the tests of stores share: models, orders, a clock that is set by hand, raw looks."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import apsw
import pytest

from escalade_server.core.catalog import Billing, Counter, CounterScope, Model, Period, Unit
from escalade_server.core.commands import Candidate, Reserve, Settle
from escalade_server.core.events import ReservationDenied, Reserved
from escalade_server.core.money import Price
from escalade_server.core.task import Basis
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import Store
from escalade_server.stores.leased import LeasedStore
from escalade_server.stores.redis import RedisStore
from escalade_server.stores.redis_link import place_of
from escalade_server.stores.sqlite import SqliteStore
from tests.stores.servers import Server

NOW_MS = 1_790_000_000_000  # 2026-09-21T14:13:20Z
USD = 1_000_000_000
PATIENT_S = 20.0
"""A deadline that a busy machine keeps."""
numbers = count()


@dataclass
class HandClock:
    """A clock that stands still until it is set."""

    at_ms: int = NOW_MS

    def now_ms(self) -> int:
        return self.at_ms


def counter(
    key: str,
    limit: int,
    unit: Unit = Unit.REQUESTS,
    period: Period = Period.DAY,
    zone: str = "UTC",
) -> Counter:
    return Counter(key, unit, period, limit, CounterScope.MODEL, key, zone)


def candidate(
    *counters: Counter, tokens: int = 100, nanos: int = 10, position: int = 0
) -> Candidate:
    model = Model(
        "p", "a", f"m{position}", "m", "openai", "layer", 0, position, frozenset(), counters,
        Price(1, 1), Billing.METERED,
    )  # fmt: skip
    return Candidate(model, tokens, nanos, 10)


def reserve(id_: str, *candidates: Candidate) -> Reserve:
    return Reserve(id_, 1, candidates)


def settle(
    id_: str,
    nanos: int = 10,
    tokens: int = 100,
    requests: int = 1,
    basis: Basis = Basis.REPORTED,
    hold_until_ms: int | None = None,
) -> Settle:
    return Settle(id_, 1, requests, tokens, nanos, nanos, basis, hold_until_ms)


@dataclass
class State:
    """The state of one backend, over which stores are opened one after the other."""

    path: Path | None
    clock: HandClock = field(default_factory=HandClock)
    open_stores: list[Store] = field(default_factory=list)
    url: str = ""
    """Of a Redis; each state is a ledger of its own there."""
    name: str = field(default_factory=lambda: f"ledger-{next(numbers)}")
    journal: Path | None = None
    """Of leased chunks; with it every counter is leased from its first call on."""

    async def open(self, *counters: Counter) -> Store:
        store: Store = self._beneath()
        if self.journal is not None:
            store = LeasedStore(
                lambda _: self._beneath(), str(self.journal), self.clock, Calendar(), hot=1
            )
        await store.open(counters)
        self.open_stores.append(store)
        return store

    def _beneath(self) -> SqliteStore | RedisStore:
        if not self.url:
            return SqliteStore(self.path, self.clock, Calendar())
        place = place_of(f"{self.url}?name={self.name}")
        return RedisStore(
            place, self.clock, Calendar(), deadline_s=PATIENT_S, store_clock=self.clock
        )

    async def close(self) -> None:
        for store in self.open_stores:
            await store.close()

    async def take(self, store: Store, *candidates: Candidate, id_: str = "") -> str:
        """Reserve, which must work; the answer is the id."""
        id_ = id_ or f"task-{next(numbers)}"
        answer = await store.reserve(reserve(id_, *candidates), self.clock.at_ms)
        assert isinstance(answer, Reserved), answer
        return id_

    async def refusal(self, store: Store, *candidates: Candidate) -> ReservationDenied:
        """Reserve, which must not work."""
        order = reserve(f"task-{next(numbers)}", *candidates)
        answer = await store.reserve(order, self.clock.at_ms)
        assert isinstance(answer, ReservationDenied), answer
        return answer

    def figures(self, store: Store, *counters: Counter) -> list[tuple[int, int]]:
        """Answer spent and held of each counter."""
        spends = {spend.counter.key: spend for spend in store.spends(self.clock.at_ms)}
        return [(spends[each.key].spent, spends[each.key].held) for each in counters]


def rows(path: Path, sql: str, *bindings: str | int) -> list[tuple[object, ...]]:
    """Look into a file from outside."""
    connection = apsw.Connection(str(path))
    try:
        return list(connection.execute(sql, bindings))
    finally:
        connection.close()


def audit(path: Path) -> None:
    """Check the invariants of quotas C6 on the file itself, without any code of the store."""
    connection = apsw.Connection(str(path))
    try:
        _audit(lambda sql: list(connection.execute(sql)))
    finally:
        connection.close()


def _audit(ask: Callable[[str], list[tuple[object, ...]]]) -> None:
    assert ask("PRAGMA integrity_check") == [("ok",)]
    spent: dict[tuple[int, int], int] = {}
    held: dict[tuple[int, int], int] = {}
    kinds = dict(_pairs(ask("SELECT id, unit FROM counters")))
    columns = "windows, state, tokens, nanos, used_requests, used_tokens, used_nanos"
    for windows, state, *amounts in ask(f"SELECT {columns} FROM reservations"):  # noqa: S608
        tokens, nanos, *used = (int(str(amount)) for amount in amounts)
        reserved = (1, tokens, nanos)
        for name in str(windows).split():
            id_, starts_ms = (int(part) for part in name.split(":"))
            column = ["requests", "tokens", "nanos"].index(str(kinds[id_]))
            into, what = (held, reserved) if state in {0, 1} else (spent, used)
            into[id_, starts_ms] = into.get((id_, starts_ms), 0) + what[column]
    leased = [0, 0, 0]
    for windows, *texts in ask("SELECT windows, held, used, assumed FROM leases"):
        told, booked_there, in_doubt = (json.loads(str(text)) for text in texts)
        leased = [a + b - c for a, b, c in zip(leased, booked_there, in_doubt, strict=True)]
        for name in str(windows).split():
            id_, starts_ms = (int(part) for part in name.split(":"))
            column = ["requests", "tokens", "nanos"].index(str(kinds[id_]))
            held[id_, starts_ms] = held.get((id_, starts_ms), 0) + told[column]
            spent[id_, starts_ms] = spent.get((id_, starts_ms), 0) + booked_there[column]
    windows_now = ask("SELECT counter, starts_ms, spent, held FROM windows")
    for counter_id, starts, booked, open_ in windows_now:
        key = (int(str(counter_id)), int(str(starts)))
        assert (booked, open_) == (spent.get(key, 0), held.get(key, 0)), key
    if any(leased):  # who used what is told with the folds: only the sums can be compared
        by_day, by_call = _totals(_sums(ask, BY_DAY)), _totals(_sums(ask, BY_RESERVATION))
        assert by_day == [a + b for a, b in zip(by_call, leased, strict=True)]
        return
    assert _sums(ask, BY_DAY) == _sums(ask, BY_RESERVATION)


def _totals(found: list[tuple[object, ...]]) -> list[int]:
    return [sum(int(str(row[column])) for row in found) for column in (5, 6, 7)]


BY_RESERVATION = """
SELECT day, layer, model, agent, task_type, sum(used_requests), sum(used_tokens), sum(used_nanos)
FROM reservations WHERE state IN (2, 3) AND layer <> '' GROUP BY 1, 2, 3, 4, 5
"""
BY_DAY = """
SELECT day, layer, model, agent, task_type, requests,
  input_tokens + output_tokens + assumed_tokens, list_nanos FROM usage
"""


def _sums(ask: Callable[[str], list[tuple[object, ...]]], sql: str) -> list[tuple[object, ...]]:
    """What is reported must be what is booked."""
    return sorted((row for row in ask(sql) if any(row[5:])), key=str)


def _pairs(found: Iterable[tuple[object, ...]]) -> Iterable[tuple[int, str]]:
    return ((int(str(id_)), str(unit)) for id_, unit in found)


KEEPING = ("sqlite", "redis", "valkey")
"""Where a state outlives the store."""
LEASED = ("sqlite, leased", "redis, leased", "valkey, leased")
"""The same with leased chunks."""


def state_in(request: pytest.FixtureRequest, folder: Path) -> State:
    """Make the state that a fixture's parameter names."""
    kind, _, form = request.param.partition(", ")
    journal = folder / "leases" if form else None
    if kind in {"redis", "valkey"}:
        server: Server = request.getfixturevalue(kind)
        return State(None, url=server.url, journal=journal)
    return State(folder / "state.db" if kind == "sqlite" else None, journal=journal)
