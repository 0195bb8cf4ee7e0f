"""The store fails at its n-th call, for every n: precise endings, and books that come right (S13).

A call fails with nothing done, or is done and reported as failed; once, or from then on until the
disk is mended or the server started again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import apsw
import grpc
import pytest

from escalade_server.core import catalog
from escalade_server.core.facts import ErrorReason, Failed, Finished
from escalade_server.core.failure import FailureClass
from escalade_server.core.window import Window
from escalade_server.engine.calendar import Calendar
from escalade_server.provider_simulator import Fault, FaultKind, ModelScript
from escalade_server.stores import sqlite
from escalade_server.stores.books import Books
from escalade_server.stores.crew import Crew
from escalade_server.stores.rows import State
from escalade_server.stores.sqlite import SqliteStore
from tests.api.world import Told
from tests.core.builders import request, three_layers
from tests.engine.shell import FakeCaller, LoopClock, World, fails, text
from tests.faults.served import PRICE, Served, served
from tests.stores.world import HandClock, audit, rows


@dataclass
class Fate:
    """Which calls fail, counted from 1 for each task, and whether their work is done."""

    fails: range = range(0)
    done: bool = False
    calls: int = 0

    def set(self, n: int, *, done: bool, lasting: bool) -> None:
        self.fails, self.done, self.calls = range(n, 1 << 30 if lasting else n + 1), done, 0

    def mend(self) -> None:
        self.fails = range(0)

    def before(self) -> None:
        self.calls += 1
        if self.calls in self.fails and not self.done:
            raise apsw.BusyError("database is locked")

    def after(self) -> None:
        if self.calls in self.fails and self.done:
            raise apsw.FullError("disk is full")


class FaultyBooks(Books):
    """The store's own books, whose transactions fail as is fated."""

    def __init__(
        self,
        fate: Fate,
        connection: apsw.Connection,
        calendar: Callable[[catalog.Counter, int], Window],
        now_ms: int,
        zone: str = "UTC",
        crew: Crew | None = None,
    ) -> None:
        super().__init__(connection, calendar, now_ms, zone, crew)
        self.fate = fate

    def begin(self, ids: Iterable[str], requests: Iterable[tuple[str, str]] = ()) -> None:
        self.fate.before()
        super().begin(ids, requests)

    def commit(self) -> None:
        super().commit()
        self.fate.after()


@pytest.fixture
def fate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fate]:
    fate = Fate()
    monkeypatch.setattr(sqlite, "Books", partial(FaultyBooks, fate))
    monkeypatch.setattr(sqlite, "LOOK_S", 0.01)
    monkeypatch.setattr(sqlite, "BATCH_MAX", 1)  # each call is a transaction of its own
    yield fate
    fate.mend()


async def closed_books(path: Path) -> None:
    """Wait until nothing is open."""
    query = "SELECT count(*) FROM reservations WHERE state = ?"
    for _ in range(500):
        if rows(path, query, State.OPEN) == [(0,)]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(rows(path, "SELECT * FROM reservations WHERE state = 0"))


# ----------------------------------------------------------------------------- with the engine


def bumpy() -> World:
    """A world in which one task meets a 429, a broken stream and an escalation, then an answer."""
    world = World(three_layers())
    world.providers.scripts = {
        "mini": [[fails(FailureClass.QUOTA_WINDOW)]],
        "flash": [[*text("Hal", "f"), fails(FailureClass.OUTAGE)]],
    }
    return world


Books_ = dict[str, tuple[int, int]]
"""By model: requests and nano-dollars."""


def booked(path: Path) -> Books_:
    query = "SELECT model, sum(used_requests), sum(used_nanos) FROM reservations GROUP BY model"
    found = {str(m): (int(str(requests)), int(str(n))) for m, requests, n in rows(path, query)}
    return {model.rpartition("/")[2]: sums for model, sums in found.items() if any(sums)}


@dataclass
class Ended:
    """One task that is over, with its state closed and opened again, or mended and then closed."""

    caller: FakeCaller
    called: list[str]
    calls: int
    booked: Books_


async def play(path: Path, fate: Fate, *, restart: bool) -> Ended:
    """Run the task over a store of its own."""
    world = bumpy()
    counters = [counter for model in world.engine.catalog.models for counter in model.counters]
    store = SqliteStore(path, HandClock(), Calendar())
    fails, fate.fails = fate.fails, range(0)
    await store.open(counters)
    fate.fails, fate.calls = fails, 0
    world.engine.store = store
    caller = world.start(request(deadline_ms=LoopClock().now_ms() + 60_000))
    async with asyncio.timeout(20):
        await world.engine.drain()
    calls = fate.calls
    if not restart:
        fate.mend()
        await closed_books(path)
    await store.close()
    fate.mend()
    if restart:
        store = SqliteStore(path, HandClock(), Calendar())
        await store.open(counters)
        await store.close()
    audit(path)
    assert not any(held for _, held in rows(path, "SELECT counter, held FROM windows"))
    return Ended(caller, world.providers.called, calls, booked(path))


@pytest.mark.fault("S2", "S13")
@pytest.mark.parametrize("restart", [False, True], ids=["mended", "restarted"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("done", [False, True], ids=["nothing done", "done"])
async def test_the_store_may_fail_at_every_call(
    tmp_path: Path, fate: Fate, *, done: bool, lasting: bool, restart: bool
) -> None:
    whole = await play(tmp_path / "whole.db", fate, restart=restart)
    assert isinstance(whole.caller.outcome, Finished)
    assert whole.called == ["mini", "flash", "glm"]
    assert whole.calls >= 7
    endings: Counter[str] = Counter()
    for n in range(1, whole.calls + 1):
        fate.set(n, done=done, lasting=lasting)
        ended = await play(tmp_path / f"{n}.db", fate, restart=restart)
        outcome = ended.caller.outcome
        if isinstance(outcome, Failed):
            assert outcome.reason is ErrorReason.LEDGER_UNAVAILABLE, outcome
            assert outcome.detail
        endings[type(outcome).__name__] += 1
        assert ended.called == whole.called[: len(ended.called)]
        assert ended.booked == {name: whole.booked[name] for name in ended.called}, n
    assert endings.keys() == {"Failed", "Finished"}, "settlements wait in the journal"


# ------------------------------------------------------------------------- with the real server

LADDER = """\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      models:
        - {provider: openai, model: mini, rate_limit: 900/day, price: {input: 0, output: 0}}
    - name: paid
      priority: 2
      billing: metered
      monthly_cap: $9
      models:
        - {provider: deepseek, model: big, price: {input: 1, output: 2}}
  failure_handling: {on_all_layers_exhausted: fail}
providers:
  openai: {base_url: "<openai>", api_key_env: PROVIDER_KEY}
  deepseek: {base_url: "<deepseek>", api_key_env: PROVIDER_KEY}
"""
PROVIDERS = {
    "openai": {"mini": ModelScript(faults=(Fault(kind=FaultKind.DAY_LIMIT),))},
    "deepseek": {"big": ModelScript(price=PRICE)},
}


def billed(made: Served) -> Books_:
    """By the providers' own count."""
    named = {"mini": made.account("openai", "mini"), "big": made.account("deepseek", "big")}
    return {
        name: (account.requests_received, account.cost_nanos)
        for name, account in named.items()
        if account.requests_received
    }


async def ask(folder: Path, fate: Fate) -> tuple[Told, int]:
    """Ask a server of its own once; answer what was told, and how often its store was called."""
    fails, fate.fails = fate.fails, range(0)
    await asyncio.to_thread(folder.mkdir)
    state = folder / "state.sqlite3"
    async with served(folder, LADDER, PROVIDERS) as made:
        fate.fails, fate.calls = fails, 0
        told, calls = await made.ask(), fate.calls
        fate.mend()
        await closed_books(state)
        assert booked(state) == billed(made)
    audit(state)
    return told, calls


@pytest.mark.fault("S2", "S13")
@pytest.mark.parametrize("done", [False, True], ids=["nothing done", "done"])
async def test_the_store_of_a_server_may_fail_at_every_call(
    tmp_path: Path, fate: Fate, *, done: bool
) -> None:
    told, calls = await ask(tmp_path / "whole", fate)
    assert told.code is grpc.StatusCode.OK
    assert calls >= 4
    codes: Counter[grpc.StatusCode] = Counter()
    for n in range(1, calls + 1):
        fate.set(n, done=done, lasting=False)
        told, _ = await ask(tmp_path / str(n), fate)
        codes[told.code] += 1
        if told.code is not grpc.StatusCode.OK:
            assert told.code is grpc.StatusCode.UNAVAILABLE
            assert told.reason == "LEDGER_UNAVAILABLE"
    assert codes.keys() == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
