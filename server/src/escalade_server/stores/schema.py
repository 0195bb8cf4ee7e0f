"""The tables of the SQLite store, and how an older file becomes a newer one (S5).

Each step of ``MIGRATIONS`` brings the file one version further and is never edited once released.
"""

import re
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
    """
    CREATE TABLE feed (
        epoch TEXT NOT NULL,         -- names this feed: its numbers mean nothing in another
        delivered INTEGER NOT NULL   -- the last event that people were notified of
    ) STRICT;
    INSERT INTO feed VALUES (lower(hex(randomblob(4))), 0);
    CREATE TABLE events (
        number INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        kind TEXT NOT NULL,          -- engine.news.NewsKind
        agent TEXT NOT NULL,
        request_id TEXT NOT NULL,
        trace_id TEXT NOT NULL,
        news TEXT NOT NULL           -- JSON
    ) STRICT;
    CREATE TABLE told (              -- what is told once, until when it is not told again
        key TEXT PRIMARY KEY,
        until_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    ALTER TABLE reservations ADD COLUMN day TEXT NOT NULL DEFAULT '';        -- of admission
    ALTER TABLE reservations ADD COLUMN layer TEXT NOT NULL DEFAULT '';
    ALTER TABLE reservations ADD COLUMN task_type TEXT NOT NULL DEFAULT '';
    ALTER TABLE reservations ADD COLUMN metered INTEGER NOT NULL DEFAULT 0;  -- charged at its value
    UPDATE reservations SET day = date(admitted_ms / 1000, 'unixepoch');
    CREATE TABLE usage (             -- engine.usage.Use of each day
        day TEXT NOT NULL,
        layer TEXT NOT NULL,         -- empty, with the model: tasks without an answer
        model TEXT NOT NULL,         -- Model.key
        agent TEXT NOT NULL,
        task_type TEXT NOT NULL,
        requests INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        cached_tokens INTEGER NOT NULL,
        cache_write_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        assumed_tokens INTEGER NOT NULL,
        list_nanos INTEGER NOT NULL,
        charged_nanos INTEGER NOT NULL,
        estimated_nanos INTEGER NOT NULL,
        tasks INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        fallbacks INTEGER NOT NULL,
        waits INTEGER NOT NULL,
        waited_ms INTEGER NOT NULL,
        PRIMARY KEY (day, layer, model, agent, task_type)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE usage_changes (     -- of layer
        day TEXT NOT NULL,
        agent TEXT NOT NULL,
        from_layer TEXT NOT NULL,
        to_layer TEXT NOT NULL,
        reason TEXT NOT NULL,
        times INTEGER NOT NULL,
        PRIMARY KEY (day, agent, from_layer, to_layer, reason)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE usage_baselines (   -- what the answers would have cost on one model
        day TEXT NOT NULL,
        agent TEXT NOT NULL,
        model TEXT NOT NULL,
        nanos INTEGER NOT NULL,
        PRIMARY KEY (day, agent, model)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reports (           -- as they were made
        day TEXT PRIMARY KEY,
        made_ms INTEGER NOT NULL,
        report TEXT NOT NULL         -- JSON
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE audit (             -- what people changed
        number INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        who TEXT NOT NULL,
        counter TEXT NOT NULL,       -- Counter.key
        window TEXT NOT NULL,
        old INTEGER NOT NULL,
        new INTEGER NOT NULL,
        reason TEXT NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE sessions (          -- core.session.Session of each
        key TEXT PRIMARY KEY,        -- a hash of agent and name
        agent TEXT NOT NULL,
        seen_ms INTEGER NOT NULL,
        until_ms INTEGER NOT NULL,
        session TEXT NOT NULL        -- JSON
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sessions_of ON sessions (agent, seen_ms);
    """,
    """
    CREATE TABLE leases (            -- of counters, to a process that spends them itself
        id TEXT PRIMARY KEY,
        owner INTEGER NOT NULL,
        seq INTEGER NOT NULL,        -- of the last fold
        windows TEXT NOT NULL,       -- as in reservations
        held TEXT NOT NULL,          -- JSON: requests, tokens, nanos
        granted TEXT NOT NULL,       -- with the last fold; null: too little was left
        assumed TEXT NOT NULL,       -- of what is booked, for want of news of a dead owner
        used TEXT NOT NULL,          -- all that is booked
        is_held INTEGER NOT NULL,
        told_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX held_leases ON leases (owner) WHERE is_held;
    """,
    """
    CREATE TABLE traces (            -- of tasks to which something happened, for a day
        number INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        trace_id TEXT NOT NULL,
        request_id TEXT NOT NULL,
        agent TEXT NOT NULL,
        trace TEXT NOT NULL          -- engine.traces.Trace, packed
    ) STRICT;
    CREATE INDEX traces_of ON traces (request_id);
    CREATE INDEX traces_named ON traces (trace_id);
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
        if tables and version == len(steps):
            return  # nothing is written: other workers may be writing
        for step in steps[version:]:
            # The text stays in the file, whose first page should hold it all: see recover.
            connection.execute(re.sub(r"(--.*)?\s+", " ", step))
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute(f"PRAGMA user_version = {len(steps)}")
