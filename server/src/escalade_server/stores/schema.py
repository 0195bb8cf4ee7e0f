"""The tables of the SQLite store, and how an older file becomes a newer one (S5).

Each step of ``MIGRATIONS`` brings the file one version further and is never edited once released.
"""

from collections.abc import Sequence

import apsw

from escalade_server.engine.ports import StoreError

APPLICATION_ID = 0x65736361
"""Marks the file as ours, so that no foreign database is ever written to."""

MEND = (
    "put a copy back in its place, or save what can be read with `escalade serve --recover`,"
    " which keeps the old file aside"
)
SQLITE_MIN = (3, 51, 3)
"""Older libraries can lose committed writes in WAL mode (faults, finding 7)."""

MIGRATIONS = (
    """
    CREATE TABLE owners (
        id INTEGER PRIMARY KEY,      -- one for each start of a server
        opened_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE counters (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,    -- Counter.key
        unit TEXT NOT NULL,
        period TEXT NOT NULL
    ) STRICT;
    CREATE TABLE windows (           -- a calendar window, or one slice of a sliding one
        counter INTEGER NOT NULL,
        starts_ms INTEGER NOT NULL,
        ends_ms INTEGER NOT NULL,
        label TEXT NOT NULL,
        spent INTEGER NOT NULL,
        held INTEGER NOT NULL,
        PRIMARY KEY (counter, starts_ms)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reservations (
        number INTEGER PRIMARY KEY,  -- in order of admission
        id TEXT NOT NULL UNIQUE,     -- the idempotency key
        owner INTEGER NOT NULL,
        model TEXT NOT NULL,
        position INTEGER NOT NULL,
        state INTEGER NOT NULL,      -- books.State
        tokens INTEGER NOT NULL,     -- reserved
        nanos INTEGER NOT NULL,
        windows TEXT NOT NULL,       -- those of admission: "counter:starts_ms ..."
        admitted_ms INTEGER NOT NULL,
        resolve_at_ms INTEGER NOT NULL,
        used_requests INTEGER NOT NULL,  -- booked
        used_tokens INTEGER NOT NULL,
        used_nanos INTEGER NOT NULL,
        agent TEXT NOT NULL,
        routed INTEGER NOT NULL,     -- its caller calls the model itself
        digest TEXT NOT NULL         -- of the caller's report that was booked
    ) STRICT;
    CREATE TABLE benches (
        key TEXT PRIMARY KEY,        -- model, account or provider
        until_ms INTEGER NOT NULL,
        cls TEXT NOT NULL,
        detail TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    ALTER TABLE reservations ADD COLUMN request_id TEXT NOT NULL DEFAULT '';  -- a caller's own
    ALTER TABLE reservations ADD COLUMN content TEXT NOT NULL DEFAULT '';     -- hash of its request
    ALTER TABLE reservations ADD COLUMN figures TEXT NOT NULL DEFAULT '';     -- of its answer
    CREATE INDEX claims ON reservations (agent, request_id) WHERE request_id <> '';
    """,
)


def check_library(version: str) -> None:
    """Refuse a SQLite library with the WAL-reset bug (S7).

    Raises:
        StoreError: the library is too old.
    """
    if tuple(int(part) for part in version.split(".")[:3]) < SQLITE_MIN:
        wanted = ".".join(str(part) for part in SQLITE_MIN)
        raise StoreError(
            f"SQLite {version} can lose committed writes; {wanted} or later is needed:"
            " update the package apsw, which brings its own"
        )


def scalar(connection: apsw.Connection, sql: str) -> int | str:
    """Answer the single value of a query."""
    value = connection.execute(sql).get
    assert isinstance(value, int | str), f"{sql}: {value!r}"
    return value


def migrate(
    connection: apsw.Connection,
    steps: Sequence[str] = MIGRATIONS,
    application_id: int = APPLICATION_ID,
) -> None:
    """Check the file and bring its tables to the newest version, in one transaction.

    Raises:
        StoreError: the file is damaged, foreign, or written by a newer version.
    """
    name = connection.filename or "the in-memory state"
    verdict = scalar(connection, "PRAGMA quick_check(1)")
    if verdict != "ok":
        raise StoreError(f"{name} is damaged ({verdict}); it was left as it is: {MEND}")
    with connection:
        version = int(scalar(connection, "PRAGMA user_version"))
        tables = scalar(connection, "SELECT count(*) FROM sqlite_schema")
        if tables and scalar(connection, "PRAGMA application_id") != application_id:
            raise StoreError(f"{name} is a database of another program; it was left as it is")
        if version > len(steps):
            raise StoreError(
                f"{name} has schema {version}, written by a newer version; this one knows"
                f" {len(steps)}: update escalade, or use another state file"
            )
        for step in steps[version:]:
            connection.execute(step)
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute(f"PRAGMA user_version = {len(steps)}")
