"""What only the SQLite store must do: faults S1 to S7, and other writers of its file."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import apsw
import pytest

from escalade_server.core.catalog import Unit
from escalade_server.core.events import Reserved
from escalade_server.core.failure import HOUR_MS
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import StoreError
from escalade_server.stores.books import KEPT_MS, PURGE_EVERY_MS
from escalade_server.stores.schema import APPLICATION_ID, MIGRATIONS, check_library, migrate
from escalade_server.stores.sqlite import SqliteStore
from tests.stores.faulty_disk import FaultyDisk, failed
from tests.stores.world import (
    NOW_MS,
    HandClock,
    State,
    audit,
    candidate,
    counter,
    reserve,
    rows,
    settle,
)

DAILY = counter("daily", 50)
MONEY = counter("money", 1_000, Unit.NANOS)
ORDER = candidate(DAILY, MONEY)


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    disk = FaultyDisk()
    yield disk
    disk.unregister()


async def on(path: Path) -> SqliteStore:
    store = SqliteStore(path, HandClock(), Calendar(), vfs="faulty")
    await store.open([DAILY, MONEY])
    return store


async def held(store: SqliteStore, id_: str) -> None:
    assert isinstance(await store.reserve(reserve(id_, ORDER), NOW_MS), Reserved)


def figures(store: SqliteStore) -> list[tuple[int, int]]:
    return [(spend.spent, spend.held) for spend in store.spends(NOW_MS)]


@pytest.mark.fault("S1")
async def test_s1_a_busy_file_refuses_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("escalade_server.stores.file.BUSY_MS", 20)
    store = SqliteStore(tmp_path / "s.db", HandClock(), Calendar())
    await store.open([DAILY, MONEY])
    await held(store, "before")
    other = apsw.Connection(str(tmp_path / "s.db"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="BusyError"):
        await store.reserve(reserve("busy", ORDER), NOW_MS)
    await store.settle(settle("before"), NOW_MS)
    assert figures(store) == [(0, 1), (0, 10)], "durable in the journal, not yet in the file"
    other.execute("ROLLBACK")
    other.close()
    await held(store, "after")
    assert figures(store) == [(1, 1), (10, 10)], "the settlement was kept, and done"
    await store.close()
    audit(tmp_path / "s.db")


@pytest.mark.fault("S2")
async def test_s2_a_full_disk_admits_nothing_and_keeps_settlements(
    tmp_path: Path, disk: FaultyDisk
) -> None:
    store = await on(tmp_path / "s.db")
    await held(store, "one")
    await held(store, "two")
    disk.fail()
    await store.settle(settle("one", nanos=3), NOW_MS)  # durable: the journal has it
    for _ in range(2):
        with pytest.raises(StoreError, match="FullError"):
            await store.reserve(reserve("three", ORDER), NOW_MS)
    assert figures(store) == [(0, 2), (0, 20)]
    disk.mend()
    for _ in range(100):
        await asyncio.sleep(0.05)
        if figures(store) == [(1, 1), (3, 10)]:
            break
    assert figures(store) == [(1, 1), (3, 10)], "the writer tries again by itself"
    await held(store, "three")
    await store.close()
    audit(tmp_path / "s.db")


@pytest.mark.parametrize("mended", ["before the end", "after the end"])
async def test_s2_what_stays_owed_is_booked_at_the_next_start(
    tmp_path: Path, disk: FaultyDisk, mended: str
) -> None:
    """Or at the end of this one, where it is tried once more."""
    store = await on(tmp_path / "s.db")
    await held(store, "one")
    await held(store, "orphan")
    disk.fail()
    await store.settle(settle("one", nanos=3), NOW_MS)
    if mended == "before the end":
        disk.mend()
    await store.close()
    [(waits,)] = rows(tmp_path / "s.db", "SELECT count(*) FROM reservations WHERE state = 0")
    assert waits == (1 if mended == "before the end" else 2)
    disk.mend()
    for _ in range(2):  # and only once
        store = await on(tmp_path / "s.db")
        assert figures(store) == [(2, 0), (13, 0)]
        await store.close()
    audit(tmp_path / "s.db")


@pytest.mark.fault("S3")
async def test_s3_after_a_failed_fsync_nothing_is_believed(
    tmp_path: Path, disk: FaultyDisk
) -> None:
    store = await on(tmp_path / "s.db")
    await held(store, "one")
    disk.fail(failed(apsw.SQLITE_IOERR_FSYNC), only="sync")
    await store.settle(settle("one", nanos=3), NOW_MS)  # the journal is another file
    disk.mend()
    tried = disk.calls
    with pytest.raises(StoreError, match="restart the server"):
        await store.reserve(reserve("two", ORDER), NOW_MS)
    await store.close()
    assert disk.calls == tried, "neither the write nor the sync is tried again"
    store = await on(tmp_path / "s.db")
    assert figures(store) == [(1, 0), (3, 0)]
    await store.close()


@pytest.mark.fault("S2")
async def test_every_single_write_may_fail(tmp_path: Path, disk: FaultyDisk) -> None:
    """The n-th write or sync of a scenario fails, for every n; then the disk is mended."""
    store = await on(tmp_path / "count.db")
    begun = disk.calls
    await held(store, "one")
    await store.settle(settle("one", nanos=3), NOW_MS)
    needed = disk.calls - begun
    await store.close()
    assert needed >= 6
    for n in range(needed):
        path = tmp_path / f"{n}.db"
        disk.mend()
        store = await on(path)
        disk.fails_in = n
        with suppress(StoreError):  # if it is the settlement's, the journal takes it
            await held(store, "one")
            await store.settle(settle("one", nanos=3), NOW_MS)
        assert disk.fails_in < 0, f"write {n} did not fail"
        disk.mend()
        await held(store, "one")  # if the first try failed, this one does it
        await store.settle(settle("one", nanos=3), NOW_MS)
        assert figures(store) == [(1, 0), (3, 0)]
        await store.close()
        audit(path)


@pytest.mark.fault("S4")
async def test_s4_a_damaged_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    state = State(path)
    store = await state.open(DAILY, MONEY)
    for n in range(300):
        if n % 20 == 0:
            await held_by(state, n)
    await store.close()
    whole = bytearray(path.read_bytes())
    for damaged in (
        b"this is no database" * 300,
        bytes(whole[:4096]) + bytes(b ^ 0x5A for b in whole[4096:]),
    ):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged"):
            await state.open(DAILY, MONEY)
        assert path.read_bytes() == damaged
    path.write_bytes(whole)
    await state.open(DAILY, MONEY)
    await state.close()


async def held_by(state: State, number: int) -> None:
    await state.take(state.open_stores[-1], ORDER, id_=f"n{number}")


@pytest.mark.fault("S4")
async def test_s4_a_foreign_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    rows(path, "CREATE TABLE notes (text)")
    with pytest.raises(StoreError, match="another program"):
        await State(path).open(DAILY)
    assert rows(path, "SELECT name FROM sqlite_schema") == [("notes",)]


@pytest.mark.fault("S5")
async def test_s5_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    state = State(path)
    await (await state.open(DAILY)).close()
    rows(path, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match=r"newer version.*update escalade"):
        await state.open(DAILY)


@pytest.mark.fault("S5")
def test_s5_migration_goes_forward_in_one_transaction(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "s.db"))
    migrate(connection)
    columns = "SELECT name FROM pragma_table_info('benches') WHERE name = 'note'"
    step = "ALTER TABLE benches ADD COLUMN note TEXT;"
    with pytest.raises(apsw.SQLError):
        migrate(connection, (*MIGRATIONS, step, "this is not SQL"))
    assert connection.execute("PRAGMA user_version").get == len(MIGRATIONS)
    assert connection.execute(columns).get is None
    migrate(connection, (*MIGRATIONS, step))
    migrate(connection, (*MIGRATIONS, step))
    assert connection.execute("PRAGMA user_version").get == len(MIGRATIONS) + 1
    assert connection.execute("PRAGMA application_id").get == APPLICATION_ID
    assert connection.execute(columns).get == "note"
    connection.close()


@pytest.mark.fault("S6")
async def test_s6_a_second_store_is_refused_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "s.db")
    first, second = State(tmp_path / "s.db"), State(tmp_path / "link.db")
    await first.open(DAILY)
    with pytest.raises(StoreError, match="in use by process"):
        await second.open(DAILY)
    await first.close()
    await second.open(DAILY)
    await second.close()


@pytest.mark.fault("S7")
@pytest.mark.parametrize("version", ["3.51.2", "3.40.1", "3.9.0"])
def test_s7_an_old_library_is_refused(version: str) -> None:
    with pytest.raises(StoreError, match=f"SQLite {version} can lose"):
        check_library(version)


def test_s7_ours_is_new_enough() -> None:
    for version in ("3.51.3", "3.52.0", "4.0", apsw.sqlite_lib_version()):
        check_library(version)


async def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        await State(tmp_path / "nowhere" / "s.db").open(DAILY)


async def test_it_is_durable_by_its_settings(tmp_path: Path) -> None:
    state = State(tmp_path / "s.db")
    store = await state.open(DAILY)
    assert isinstance(store, SqliteStore)
    assert store._connection.execute("PRAGMA journal_mode").get == "wal"
    assert store._connection.execute("PRAGMA synchronous").get == 2  # FULL
    await state.close()


async def test_what_another_program_writes_is_seen(tmp_path: Path) -> None:
    """``PRAGMA data_version``: the rows are read anew before anything is decided on them."""
    path = tmp_path / "s.db"
    state = State(path)
    store = await state.open(DAILY, MONEY)
    id_ = await state.take(store, ORDER)
    rows(path, "UPDATE windows SET spent = 49 WHERE counter = 1")
    await state.refusal(store, ORDER)
    assert state.figures(store, DAILY) == [(49, 1)]
    await store.settle(settle(id_), NOW_MS)
    assert state.figures(store, DAILY, MONEY) == [(50, 0), (10, 0)]
    await state.close()


async def test_old_rows_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    state = State(path)
    secondly = counter("secondly", 5, period=counter("x", 1).period.SECOND)
    store = await state.open(DAILY, secondly)
    order = candidate(DAILY, secondly)
    old, late = await state.take(store, order), await state.take(store, order)
    await store.settle(settle(old), NOW_MS)
    state.clock.at_ms += PURGE_EVERY_MS
    await state.take(store, order)
    assert rows(path, "SELECT count(*) FROM windows WHERE label = 'second'") == [(1,)]
    await store.settle(settle(late), state.clock.at_ms)  # its slice is past caring, its day is not
    assert state.figures(store, DAILY) == [(2, 1)]
    assert rows(path, "SELECT count(*) FROM reservations") == [(3,)]
    state.clock.at_ms = NOW_MS + KEPT_MS + HOUR_MS
    await state.take(store, order)
    assert rows(path, "SELECT count(*) FROM reservations") == [(2,)], "the open one stays"
    assert rows(path, "SELECT spent FROM windows WHERE label = '2026-09-21'") == [(2,)]
    await state.close()


async def test_a_bug_in_the_writer_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path / "s.db")
    store = await state.open(DAILY)
    assert isinstance(store, SqliteStore)
    monkeypatch.setattr(store._books, "reserve", lambda *_: 1 / 0)
    for _ in range(2):
        with pytest.raises(StoreError, match="ZeroDivisionError"):
            await store.reserve(reserve("t", ORDER), NOW_MS)
    await state.close()
