"""The file of a SQLite store: locked, opened, and what its errors mean."""

import fcntl
import os

import apsw

from escalade_server.engine.ports import StoreError
from escalade_server.stores.schema import MEND, check_library, migrate

BUSY_MS = 5_000
LOG_PAGES = 8_000
"""The log is written back at 32 MB: ids are random, and at SQLite's 4 MB the same pages of their
index are written back again and again, at half the throughput of 200 callers."""


def lock(path: str) -> int:
    """Take the exclusive lock of a state file, for as long as the process lives (P17, P18).

    Raises:
        StoreError: another process has it.
    """
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(handle, 32).decode(errors="replace").strip()
        os.close(handle)
        raise StoreError(
            f"{path} is in use by process {holder or 'unknown'}: a SQLite file serves one server"
            " at a time; stop that one, or give this one another state file"
        ) from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def library() -> str:
    """Answer the version of SQLite that is used here.

    Raises:
        StoreError: it can lose committed writes (S7).
    """
    version = apsw.sqlite_lib_version()
    check_library(version)
    return version


def connect(path: str | None, vfs: str | None) -> apsw.Connection:
    """Open the database, in memory without a path, with its tables as they are now."""
    check_library(apsw.sqlite_lib_version())
    connection = apsw.Connection(path or ":memory:", vfs=vfs)
    try:
        connection.set_busy_timeout(BUSY_MS)
        connection.execute("PRAGMA trusted_schema = OFF")
        if path is not None:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.wal_autocheckpoint(LOG_PAGES)
        migrate(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def refusal(path: str | None, error: Exception) -> StoreError:
    """Say why the state cannot be opened, and the mend; nothing is ever wiped (S4)."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return StoreError(
            f"{path} is damaged or no database ({error}); it was left as it is: {MEND}"
        )
    if isinstance(error, FileNotFoundError):
        return StoreError(f"{path} cannot be opened: make its folder, or choose another state")
    return StoreError(f"{path} cannot be opened: {error}")


def is_final(error: Exception) -> bool:
    """Whether the file can no longer be believed: fsync failed, damage, or our own bug."""
    if isinstance(error, apsw.IOError):
        code = getattr(error, "extendedresult", 0)  # missing in apsw's type stubs
        return code in {apsw.SQLITE_IOERR_FSYNC, apsw.SQLITE_IOERR_DIR_FSYNC}
    return isinstance(error, apsw.CorruptError | apsw.NotADBError) or not isinstance(
        error, apsw.Error
    )
