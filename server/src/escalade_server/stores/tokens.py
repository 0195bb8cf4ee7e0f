"""Bearer tokens in a small SQLite file of their own, beside the ledger (D2).

Why not in the ledger: one process holds that file exclusively, from start to stop, and reads it
once; tokens are made and ended by a second process while the server runs. This file is open to
both. The server looks at it before an answer that is older than ``LOOK_MS``, by SQLite's own
change counter (2.7 µs, P20), and reads it again when it changed: so a revoked token is refused
within a second, without a restart and without a word between the processes. It is never written
while serving, and until the first token is made there is no file.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

from escalade_server.core.catalog import Rank
from escalade_server.engine.ports import Clock, StoreError, Token
from escalade_server.engine.tokens import LIVE_MAX
from escalade_server.stores.schema import check_library, migrate

APPLICATION_ID = 0x65736374
"""Not the ledger's: neither file is ever taken for the other."""
LOOK_MS = 250
BUSY_MS = 200
"""A command writes for a few milliseconds; the server must not wait long for it."""

MIGRATIONS = (
    """
    CREATE TABLE tokens (
        key_id TEXT PRIMARY KEY,
        agent TEXT NOT NULL,
        rank TEXT NOT NULL,          -- Rank: agent or operator
        digest BLOB NOT NULL,        -- SHA-256 of the token's text; the text is nowhere
        created_ms INTEGER NOT NULL,
        expires_ms INTEGER,          -- NULL: never
        revoked_ms INTEGER
    ) STRICT;
    """,
)
_ALL = """
SELECT key_id, agent, rank, digest, created_ms, expires_ms, revoked_ms FROM tokens
ORDER BY created_ms, key_id
"""
_LIVE = """
SELECT count(*) FROM tokens
WHERE agent = ? AND revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > ?)
"""


class SqliteTokens:
    """``TokenStore`` over one file; used on one thread."""

    def __init__(self, path: str | os.PathLike[str], clock: Clock) -> None:
        """Say where; the file is opened when it is there, or made for the first token."""
        self._path = Path(path).resolve()
        self._clock = clock
        self._db: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._version: object = None
        self._tokens: dict[str, Token] = {}
        self._look_at_ms = 0

    def find(self, key_id: str) -> Token | None:
        """Look a token up, as of ``LOOK_MS`` ago at most."""
        now_ms = self._clock.now_ms()
        if now_ms >= self._look_at_ms:
            self._look()
        return self._tokens.get(key_id)

    def all(self) -> tuple[Token, ...]:
        """List every token there ever was, oldest first."""
        self._look()
        return tuple(self._tokens.values())

    def add(self, token: Token, now_ms: int) -> None:
        """Keep a new token; see ``TokenStore``."""
        self._write(token, None, now_ms)

    def replace(self, old: Token, token: Token, now_ms: int) -> None:
        """Keep an old token's new end, and add its successor."""
        self._write(token, old, now_ms)

    def revoke(self, key_id: str, now_ms: int) -> Token:
        """End a token at once and for good."""
        if self.find(key_id) is None:
            raise StoreError(f"there is no token {key_id}: see `escalade token list`")
        end = "UPDATE tokens SET revoked_ms = ifnull(revoked_ms, ?) WHERE key_id = ?"
        try:
            self._open().execute(end, (now_ms, key_id))
        except apsw.Error as error:
            raise self._refusal(error) from error
        self._version = None  # the change counter leaves out what this connection wrote itself
        self._look()
        return self._tokens[key_id]

    def close(self) -> None:
        """Close the file; safe twice."""
        if self._db is not None:
            self._db.close()
        self._db = self._file = self._version = None

    def _write(self, token: Token, old: Token | None, now_ms: int) -> None:
        row = (
            token.key_id, token.agent, token.rank.value, token.digest, token.created_ms,
            token.expires_ms, token.revoked_ms,
        )  # fmt: skip
        try:
            self._make()
            db = self._open()
            migrate(db, MIGRATIONS, APPLICATION_ID)
            with db:
                [(live,)] = db.execute(_LIVE, (token.agent, now_ms)).fetchall()
                if int(str(live)) >= LIVE_MAX:
                    raise StoreError(
                        f"{token.agent} has {LIVE_MAX} live tokens, as many as a rotation needs:"
                        " revoke one first"
                    )
                if old is not None:
                    end = "UPDATE tokens SET expires_ms = ? WHERE key_id = ?"
                    db.execute(end, (old.expires_ms, old.key_id))
                db.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        except (apsw.Error, OSError) as error:
            raise self._refusal(error) from error
        self._version, self._look_at_ms = None, 0

    def _look(self) -> None:
        """Read the file again if it changed, or is another one than before.

        Raises:
            StoreError: it cannot be read, so nobody can be known.
        """
        try:
            there = self._path.stat()
            if (there.st_dev, there.st_ino) != self._file:
                self.close()
            db = self._open()
            self._file = (there.st_dev, there.st_ino)
            version = db.execute("PRAGMA data_version").get
            if version != self._version:
                self._tokens = self._load(db)
                self._version = version
            self._look_at_ms = self._clock.now_ms() + LOOK_MS
        except FileNotFoundError:
            self.close()
            self._tokens = {}
        except apsw.BusyError:
            return  # a command is writing: it is seen at the next look
        except (apsw.Error, OSError) as error:
            raise self._refusal(error) from error

    def _load(self, db: apsw.Connection) -> dict[str, Token]:
        if not db.execute("SELECT count(*) FROM sqlite_schema").get:
            return {}
        if db.execute("PRAGMA application_id").get != APPLICATION_ID:
            raise StoreError(f"{self._path} is no file of tokens; it was left as it is")
        found: dict[str, Token] = {}
        rows: list[tuple[Any, ...]] = db.execute(_ALL).fetchall()  # STRICT: the types they say
        for key_id, agent, rank, *rest in rows:
            found[key_id] = Token(key_id, agent, Rank(rank), *rest)
        return found

    def _make(self) -> None:
        """Make the file, readable for its owner only, unless it is there."""
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    def _open(self) -> apsw.Connection:
        if self._db is None:
            check_library(apsw.sqlite_lib_version())
            self._db = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
            self._db.transaction_mode = "IMMEDIATE"  # count and add, or neither
            self._db.set_busy_timeout(BUSY_MS)
            self._db.execute("PRAGMA trusted_schema = OFF")
            self._db.execute("PRAGMA synchronous = FULL")
        return self._db

    def _refusal(self, error: Exception) -> StoreError:
        return StoreError(f"the tokens in {self._path} cannot be read or written: {error}")
