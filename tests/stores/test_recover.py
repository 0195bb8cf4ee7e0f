"""What can be read of a damaged ledger is saved, what was open is booked in full (S4)."""

import random
from pathlib import Path

import pytest

from escalade_server.core.catalog import Period, Unit
from escalade_server.engine.ports import StoreError
from escalade_server.stores.recover import recover
from tests.stores.world import NOW_MS, State, audit, candidate, counter, rows, settle

DAILY = counter("daily", 100_000)
MONEY = counter("money", 1_000_000, Unit.NANOS, Period.MONTH)
ORDER = candidate(DAILY, MONEY)
PAGE = 4096
OPEN = range(0, 600, 50)


async def filled(path: Path, *, rows_: int = 600) -> None:
    """Make a ledger of many reservations, some of them open."""
    state = State(path)
    store = await state.open(DAILY, MONEY)
    for number in range(rows_):
        id_ = await state.take(store, ORDER, id_=f"r{number}")
        if number not in OPEN:
            await store.settle(settle(id_, nanos=3), NOW_MS)
    await store.close()


async def opened(path: Path) -> list[tuple[int, int]]:
    state = State(path)
    store = await state.open(DAILY, MONEY)
    found = state.figures(store, DAILY, MONEY)
    await store.close()
    audit_after_loss(path)
    return found


def audit_after_loss(path: Path) -> None:
    """The books of what is left are never below what is left."""
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    [(used,)] = rows(path, "SELECT total(used_nanos) FROM reservations")
    [(spent,)] = rows(path, "SELECT sum(spent) FROM windows JOIN counters ON id = counter"
                            " WHERE key = 'money'")  # fmt: skip
    assert int(str(spent)) >= float(str(used))


def truth(rows_: int = 600) -> list[tuple[int, int]]:
    """What must be booked when open calls are booked in full."""
    return [(rows_, 0), (10 * len(OPEN) + 3 * (rows_ - len(OPEN)), 0)]


def pages(path: Path) -> int:
    return path.stat().st_size // PAGE


def spoil(whole: Path, folder: Path, page: int) -> str:
    """Recover a copy in which one page is noise; answer what was told."""
    folder.mkdir()
    path, spoiled = folder / "state.db", bytearray(whole.read_bytes())
    spoiled[page * PAGE : (page + 1) * PAGE] = random.Random(page).randbytes(PAGE)
    path.write_bytes(spoiled)
    try:
        told = recover(str(path), NOW_MS)
    except StoreError as error:
        told = str(error)
    aside = Path(f"{path}.damaged-{NOW_MS}")
    assert (aside if "saved" in told else path).read_bytes() == spoiled
    assert "saved" not in told or (str(aside) in told and "look at the caps" in told)
    return told


@pytest.mark.fault("S4")
async def test_damage_anywhere_but_in_the_counters_forgets_nothing(tmp_path: Path) -> None:
    """Page by page: either all that counts is saved, or the start is still refused."""
    path = tmp_path / "state.db"
    await filled(path)
    told = [spoil(path, tmp_path / str(page), page) for page in range(1, pages(path))]
    saved = [page for page, words in enumerate(told, 1) if "saved" in words]
    for page in saved:
        assert await opened(tmp_path / str(page) / "state.db") == truth(), told[page - 1]
    assert len(saved) > 10
    assert any("damaged in windows" in words for words in told)
    # Of the counters, and of the text of the tables, which no longer fits into the first page.
    assert sum("put a copy back" in words for words in told) <= 4


async def test_a_sound_ledger_or_none_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    assert "not there" in recover(str(path), NOW_MS)
    assert not path.exists()
    await filled(path, rows_=3)
    audit(path)
    assert "is sound" in recover(str(path), NOW_MS)
    audit(path)


async def test_what_is_no_database_or_in_use_cannot_be_recovered(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is no database" * 300)
    with pytest.raises(StoreError, match="put a copy back"):
        recover(str(path), NOW_MS)
    assert path.read_bytes() == b"this is no database" * 300
    other = State(tmp_path / "other.db")
    await other.open(DAILY)
    with pytest.raises(StoreError, match="in use by process"):
        recover(str(tmp_path / "other.db"), NOW_MS)
    await other.close()
