"""The journal of settlements that the ledger could not take (S2)."""

import asyncio
import os
from pathlib import Path

import pytest

from escalade_server.core.catalog import Unit
from escalade_server.core.commands import Settle
from escalade_server.core.task import Basis, Usage
from escalade_server.core.trace import Figures
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import StoreError
from escalade_server.stores import spill
from escalade_server.stores.spill import Spill
from escalade_server.stores.sqlite import SPILL, SqliteStore
from tests.stores.world import NOW_MS, HandClock, State, audit, candidate, counter, settle

FIGURES = Figures(Usage(3, 4, cached_tokens=1), 70, 60, NOW_MS, NOW_MS + 9)
ORDERS = [
    settle("one", nanos=9_000_000_000_000_000),
    settle("two", hold_until_ms=NOW_MS + 5),
    Settle("drei-ü", 2, 1, 7, 70, 60, Basis.RESERVED, None, "digest\n", FIGURES),
]


def kept(path: Path) -> tuple[list[Settle], int]:
    journal = Spill(str(path))
    found = journal.open()
    journal.close()
    return found, journal.damaged


def written(path: Path, *batches: list[Settle]) -> None:
    journal = Spill(str(path))
    journal.open()
    for batch in batches:
        journal.append(batch)
    journal.close()


def lines(path: Path) -> bytes:
    return path.read_bytes().rstrip(b"\0")


def test_what_is_appended_is_found_until_it_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "j"
    written(path, ORDERS[:1], ORDERS[1:])
    written(path)  # a start that books nothing forgets nothing
    written(path, ORDERS)
    assert kept(path) == (ORDERS + ORDERS, 0)
    journal = Spill(str(path))
    journal.open()
    journal.clear()
    journal.append(ORDERS[2:])
    journal.close()
    assert kept(path) == (ORDERS[2:], 0)


def test_room_is_taken_in_advance_so_that_a_full_disk_has_some(tmp_path: Path) -> None:
    path = tmp_path / "j"
    written(path)
    assert path.stat().st_blocks * 512 >= spill.ROOM_BYTES
    written(path, ORDERS)
    assert path.stat().st_size == spill.ROOM_BYTES


def test_a_torn_last_line_is_forgotten_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "j"
    written(path, ORDERS)
    whole = lines(path)
    begun = whole.rindex(b"\n", 0, -1) + 1
    for size in range(begun, len(whole)):
        path.write_bytes(whole[:size])
        assert kept(path) == (ORDERS[:2], 0)
        written(path, ORDERS[:1])  # what follows takes its place
        assert kept(path)[0][2:] == ORDERS[:1]


def test_a_damaged_line_is_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "j"
    written(path, ORDERS)
    spoiled = bytearray(path.read_bytes())
    spoiled[15] ^= 1
    path.write_bytes(spoiled)
    assert kept(path) == (ORDERS[1:], 1)


def test_the_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    text = b'["one",1,"and","nothing","as","we","know","it"]'
    path.write_bytes(spill._checksum(text) + b" " + text + b"\n")
    with pytest.raises(StoreError, match="another version"):
        kept(path)


async def test_a_start_books_it_once_and_says_what_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    money = counter("money", 1_000, Unit.NANOS)
    state = State(path)
    store = await state.open(money)
    for id_ in ("one", "two"):
        await state.take(store, candidate(money), id_=id_)
    await store.close()
    journal = Path(f"{path}{SPILL}")
    written(journal, [settle("one", nanos=3), settle("two", nanos=4), settle("never", nanos=5)])
    spoiled = lines(journal).replace(b'"two"', b'"TWO"')
    told: list[str] = []
    await asyncio.to_thread(journal.write_bytes, spoiled)
    for _ in range(2):
        store = SqliteStore(path, HandClock(), Calendar(), tell=told.append)
        await store.open([money])
        [spend] = store.spends(NOW_MS)
        assert (spend.spent, spend.held) == (13, 0), "what could not be read is booked in full"
        await store.close()
    [said] = told
    assert "1 settlements" in said
    assert "booked in full" in said
    audit(path)


async def test_journals_of_workers_that_are_no_more_are_booked_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    money = counter("money", 1_000, Unit.NANOS)
    state = State(path)
    store = await state.open(money)
    for id_ in ("one", "two"):
        await state.take(store, candidate(money), id_=id_)
    await store.close()
    written(Path(f"{path}{SPILL}-2"), [settle("one", nanos=3)])
    written(Path(f"{path}{SPILL}-11"), [settle("two", nanos=4)])
    store = await state.open(money)
    [spend] = store.spends(NOW_MS)
    assert (spend.spent, spend.held) == (7, 0)
    left = await asyncio.to_thread(os.listdir, tmp_path)
    assert [name for name in left if SPILL in name] == [f"s.db{SPILL}"]
    await store.close()
    audit(path)
