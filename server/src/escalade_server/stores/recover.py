"""A damaged ledger: what can be read of it goes into a new one, and nothing is forgotten (S4).

The old file is kept aside as it is. Damage hides rows in the middle of a table: each table is read
from both its ends. What was held for calls of which nothing can be read is booked in full; calls
that were open are, too, at the next start. What is lost all the same is told.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import apsw

from escalade_server.core import ledger
from escalade_server.core.catalog import Period, Unit
from escalade_server.core.failure import DAY_MS, HOUR_MS
from escalade_server.engine.ports import StoreError
from escalade_server.stores.file import lock
from escalade_server.stores.rows import State
from escalade_server.stores.schema import migrate, scalar

KEYS = {
    "counters": ("id",),
    "windows": ("counter", "starts_ms"),
    "reservations": ("number",),
    "benches": ("key",),
    "usage": ("day", "layer", "model", "agent", "task_type"),
    "usage_changes": ("day", "agent", "from_layer", "to_layer", "reason"),
    "usage_baselines": ("day", "agent", "model"),
    "reports": ("day",),
    "told": ("key",),
    "audit": ("number",),
}
LONGEST_MS = {
    Period.DAY: DAY_MS + HOUR_MS,
    Period.WEEK: 7 * DAY_MS + HOUR_MS,
    Period.MONTH: 31 * DAY_MS + HOUR_MS,
}
"""How long a window lasts at most: what cannot be read must not end too early."""
NOBODY = 0
"""Not the id of any owner: the next start books in full what is open."""
Row = dict[str, int | str]
Key = tuple[int | str, ...]


def recover(state: str, now_ms: int) -> str:
    """Save what can be read of a ledger that nobody has open; answer what was done, in words.

    Raises:
        StoreError: it is open elsewhere, or nothing can be read; everything is as it was.
    """
    path = os.path.realpath(state)
    if not Path(path).exists():
        return f"{path} is not there yet: nothing was changed"
    handle = lock(path)
    try:
        return _recover(path, f"{path}.damaged-{now_ms}")
    except (ValueError, TypeError, OSError, apsw.Error) as error:
        raise StoreError(f"{path} cannot be recovered: {error}; put a copy back") from error
    finally:
        os.close(handle)


def _recover(path: str, aside: str) -> str:
    old = apsw.Connection(path)
    try:
        old.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        if _is_sound(old):
            return f"{path} is sound: nothing was changed"
        found, damaged = _read(old, path)
    finally:
        old.close()
    assumed = _mend(found)
    _write(found, f"{path}.recovered")
    for end in ("-wal", "-shm", ""):
        if Path(path + end).exists():
            Path(path + end).rename(aside + end)
    Path(f"{path}.recovered").rename(path)
    counts = ", ".join(f"{len(rows)} {table}" for table, rows in found.items())
    return (
        f"{path} was damaged in {', '.join(damaged) or 'an index'}; saved: {counts}; in {assumed}"
        " windows calls that cannot be read are booked in full. Where windows are damaged, only"
        f" what the last day's calls used is left: look at the caps. The old file is {aside}"
    )


def _is_sound(connection: apsw.Connection) -> bool:
    try:
        return scalar(connection, "PRAGMA integrity_check(1)") == "ok"
    except apsw.Error:
        return False


def _read(old: apsw.Connection, path: str) -> tuple[dict[str, dict[Key, Row]], list[str]]:
    """Read every table from both ends; answer the rows by their keys, and which had damage."""
    found: dict[str, dict[Key, Row]] = {}
    damaged = []
    for table, key in KEYS.items():
        rows = found[table] = {}
        for direction in ("ASC", "DESC"):
            order = ", ".join(f"{column} {direction}" for column in key)
            try:
                for row in _rows(old, f"SELECT * FROM {table} ORDER BY {order}"):  # noqa: S608
                    rows[tuple(row[column] for column in key)] = row
                break
            except apsw.Error:
                damaged += [table] if direction == "ASC" else []
    if not found["counters"]:
        raise StoreError(f"nothing can be read of {path}: put a copy back in its place")
    return found, damaged


def _rows(connection: apsw.Connection, sql: str) -> Iterator[Row]:
    cursor = connection.execute(sql)
    for row in cursor:
        names = [str(column[0]) for column in cursor.description]
        yield dict(zip(names, row, strict=True))


def _mend(found: Mapping[str, dict[Key, Row]]) -> int:
    """Make the windows agree with what is open; answer how many held more than that."""
    columns = {id_: ledger.FIELD[Unit(row["unit"])] for (id_,), row in found["counters"].items()}
    held: dict[Key, int] = {}
    used: dict[Key, int] = {}
    for row in found["reservations"].values():
        is_open = row["state"] in {State.OPEN, State.UNCERTAIN}
        names = ("tokens", "nanos") if is_open else ("used_tokens", "used_nanos")
        requests = 1 if is_open else int(row["used_requests"])
        amounts = (requests, *(int(row[name]) for name in names))
        into = held if is_open else used
        row["owner"] = NOBODY
        for name in str(row["windows"]).split():
            counter, starts_ms = (int(part) for part in name.split(":"))
            if counter in columns:
                window = (counter, starts_ms)
                into[window] = into.get(window, 0) + amounts[columns[counter]]
    windows = found["windows"]
    for key in (held.keys() | used.keys()) - windows.keys():
        counter, starts_ms = (int(part) for part in key)
        longest_ms = LONGEST_MS.get(Period(found["counters"][counter,]["period"]))
        if longest_ms is not None:  # a slice is past caring
            windows[key] = {
                "counter": counter, "starts_ms": starts_ms, "ends_ms": starts_ms + longest_ms,
                "label": "recovered", "spent": 0, "held": 0,
            }  # fmt: skip
    unknown = 0
    for key, row in windows.items():
        missing = max(int(row["held"]) - held.get(key, 0), 0)
        row["spent"] = max(int(row["spent"]) + missing, used.get(key, 0))
        row["held"] = held.get(key, 0)
        unknown += missing > 0
    return unknown


def _write(found: Mapping[str, dict[Key, Row]], path: str) -> None:
    """Make a new, whole ledger of the rows."""
    Path(path).unlink(missing_ok=True)
    new = apsw.Connection(path)
    try:
        new.execute("PRAGMA synchronous = FULL")
        migrate(new)
        with new:
            for table, rows in found.items():
                for row in rows.values():
                    marks = ", ".join("?" * len(row))
                    sql = f"INSERT OR IGNORE INTO {table} ({', '.join(row)}) VALUES ({marks})"  # noqa: S608
                    new.execute(sql, tuple(row.values()))
    finally:
        new.close()
