"""What people enter in the ledger: audited, in the window of now, and heard of by a server."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from escalade_server.core.catalog import Period, Unit
from escalade_server.core.events import ReservationDenied, Reserved
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import StoreError
from escalade_server.stores.audit import LedgerDesk
from escalade_server.stores.sqlite import SqliteStore
from tests.stores.world import NOW_MS, HandClock, candidate, counter, reserve

CAP = counter("nanos/month:p/m", 100, Unit.NANOS, Period.MONTH)
OTHER = counter("nanos/month:p/other", 100, Unit.NANOS, Period.MONTH)
MINUTE = counter("requests/minute:p/m", 100, Unit.REQUESTS, Period.MINUTE)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state.db")


@pytest.fixture
async def store(path: str) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(path, HandClock(), Calendar())
    await made.open([CAP, OTHER, MINUTE])
    yield made
    await made.close()


def desk(path: str) -> LedgerDesk:
    return LedgerDesk(path, HandClock(), Calendar())


def enter(path: str, value: int, *, is_change: bool = False) -> None:
    opened = desk(path)
    opened.enter(CAP.key, value, is_change=is_change, who="eve", reason="bill", known=CAP)
    opened.close()


async def test_a_server_hears_of_it_with_the_next_order_and_without_one(
    path: str, store: SqliteStore
) -> None:
    call = candidate(CAP, nanos=10)
    assert isinstance(await store.reserve(reserve("r1", call), NOW_MS), Reserved)
    enter(path, 85)
    assert isinstance(await store.reserve(reserve("r2", call), NOW_MS), ReservationDenied)
    enter(path, -5, is_change=True)
    assert isinstance(await store.reserve(reserve("r3", call), NOW_MS), Reserved)
    enter(path, 7)
    async with asyncio.timeout(20):
        while store.standing(NOW_MS).balances[CAP.key].spent != 7:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert store.standing(NOW_MS).balances[CAP.key].held == 20
    opened = desk(path)
    assert [(c.old, c.new, c.who, c.reason) for c in opened.changes()] == [
        (0, 85, "eve", "bill"), (85, 80, "eve", "bill"), (80, 7, "eve", "bill"),
    ]  # fmt: skip
    assert [(s.key, s.spent, s.held) for s in opened.standings()] == [(CAP.key, 7, 20)]
    opened.close()


async def test_it_is_kept_without_a_server(path: str) -> None:
    clock = HandClock()
    for number in range(2):
        store = SqliteStore(path, clock, Calendar())
        await store.open([CAP])
        assert store.standing(NOW_MS).balances.get(CAP.key) is None or number
        await store.close()
        enter(path, 40, is_change=True)
    opened = desk(path)
    assert [s.spent for s in opened.standings()] == [80]
    clock.at_ms += 40 * 86_400_000  # a month later nothing of it is left
    assert LedgerDesk(path, clock, Calendar()).standings() == []


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        (MINUTE.key, 1, "forgets by itself"),
        ("nanos/month:p/nobody", 1, "no counter"),
        (OTHER.key, 1, "give --strategy"),
        (CAP.key, -1, "0 or more"),
        (CAP.key, 1 << 62, "0 or more"),
    ],
)
async def test_what_cannot_be_entered_changes_nothing(
    path: str, store: SqliteStore, key: str, value: int, why: str
) -> None:
    await store.reserve(reserve("r1", candidate(CAP, MINUTE, nanos=10)), NOW_MS)
    opened = desk(path)
    before = opened.standings()
    with pytest.raises(StoreError, match=why):
        opened.enter(key, value, is_change=False, who="eve", reason="x")
    assert (opened.standings(), opened.changes()) == (before, [])
    opened.close()


def test_only_a_ledger_is_opened(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not there"):
        desk(str(tmp_path / "none.db"))
    assert list(tmp_path.iterdir()) == []
    foreign = tmp_path / "foreign.db"
    connection = apsw.Connection(str(foreign))
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StoreError, match="another program"):
        desk(str(foreign))
    (tmp_path / "text.db").write_text("no database at all, whatever its name says\n" * 50)
    with pytest.raises(StoreError, match="damaged or no database"):
        desk(str(tmp_path / "text.db"))
