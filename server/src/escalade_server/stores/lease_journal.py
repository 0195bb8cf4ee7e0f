"""What was spent inside leases, beside the ledger: an append-only file (quotas C10, S2).

A record is a line with its checksum. Every record is written before what it says takes effect;
only settlements are waited for until they are synced, many with one sync. So a killed process
leaves all that it did (the kernel has it), and a power cut all that was acknowledged. Which of the
two it was is told by the identity of the machine's start: after a power cut, or where it is not
known, what the file does not tell is not known to be free.

Processes that share a place take files of their own, by number; one that starts also takes what
dead ones have left. A file that has grown is written anew, with the state instead of its history.
"""

import asyncio
import contextlib
import fcntl
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from escalade_server.engine.ports import StoreError

LONG_BYTES = 16 * 1024 * 1024
SLOTS = 64
READY = ["R"]
"""Ends the state with which a file begins."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_encode = msgspec.json.Encoder().encode

Record = list[Any]


class Former(NamedTuple):
    """What a file tells."""

    records: list[Record]
    is_whole: bool
    """Nothing that was written can be missing."""


class Journal:
    """One file; used on the event loop, synced on a thread."""

    def __init__(self, path: str) -> None:
        """Say where; ``lock`` comes first."""
        self.path = path
        self.broken = ""
        """Why nothing can be kept any more."""
        self._boot = _BOOT.read_text("ascii").strip() if _BOOT.exists() else ""
        self._lock: int | None = None
        self._file: int | None = None
        self._old: int | None = None
        self._size = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None

    def lock(self) -> bool:
        """Take the file; False if another process has it.

        Raises:
            OSError: it cannot be made.
        """
        handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._lock = handle
        return True

    def read(self) -> Former:
        """Read what an earlier process left."""
        new = self._lines(f"{self.path}.new")
        if new is not None and READY in new.records:
            Path(f"{self.path}.new").replace(self.path)
            return new
        return self._lines(self.path) or Former([], is_whole=True)

    def _lines(self, path: str) -> Former | None:
        try:
            held = Path(path).read_bytes()
        except FileNotFoundError:
            return None
        *lines, _torn = held.split(b"\n")
        records, is_whole = [], True
        for line in lines:
            checksum, _, text = line.partition(b" ")
            if checksum == _checksum(text):
                records.append(msgspec.json.decode(text))
            else:
                is_whole = False
        boot = records[0][1] if records and records[0][0] == "B" else ""
        return Former(records, is_whole and boot == self._boot != "")

    def begin(self, state: Sequence[Record]) -> None:
        """Begin the file anew with a state, durably.

        Raises:
            OSError: the disk refuses.
        """
        self._begin(state)
        self._flush()

    def append(self, record: Record) -> None:
        """Write a record; safe from the death of this process once it returns.

        Raises:
            StoreError: it cannot be kept; nothing can any more.
        """
        if self.broken or self._file is None:
            raise StoreError(f"the journal {self.path} cannot be written: {self.broken}")
        try:
            self._size += _write(self._file, record)
        except OSError as error:
            self.broken = f"{error}"
            raise StoreError(f"the journal {self.path} cannot be written: {error}") from error

    def sync(self, state: Callable[[], Sequence[Record]]) -> "asyncio.Future[None]":
        """Wait until all that was appended so far is safe from a power cut, too.

        ``state`` makes what the file begins with, should it be written anew.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if self._syncing is None:
            self._syncing = asyncio.ensure_future(self._sync(state))
        return future

    async def _sync(self, state: Callable[[], Sequence[Record]]) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, []
                why = ""
                try:
                    if self._size > LONG_BYTES and not self.broken:
                        self._begin(state())
                    await asyncio.to_thread(self._flush)
                except OSError as error:
                    why = self.broken = f"{error}"
                for future in waiting:
                    if future.done():
                        continue
                    if why or self.broken:
                        future.set_exception(StoreError(f"the journal cannot be synced: {why}"))
                    else:
                        future.set_result(None)
        finally:
            self._syncing = None

    def _begin(self, state: Sequence[Record]) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        new = os.open(f"{self.path}.new", flags, 0o600)
        size = 0
        try:
            for record in (["B", self._boot], *state, READY):
                size += _write(new, record)
        except OSError:
            os.close(new)
            raise
        if self._old is not None:
            os.close(self._old)
        self._old, self._file, self._size = self._file, new, size

    def _flush(self) -> None:
        """Sync; a file begun anew then takes the place of the old one."""
        assert self._file is not None, "begin comes first"
        os.fdatasync(self._file)
        new = Path(f"{self.path}.new")
        if new.exists():
            new.replace(self.path)
            folder = os.open(new.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        if self._old is not None:
            os.close(self._old)
            self._old = None

    async def close(self) -> None:
        """Sync and let go; safe twice."""
        if self._syncing is not None:
            await asyncio.gather(self._syncing, return_exceptions=True)
        for handle in (self._file, self._old, self._lock):
            if handle is not None:
                os.close(handle)
        self._file = self._old = self._lock = None

    def remove(self) -> None:
        """Do away with the file: all that it told is in the ledger."""
        for path in (self.path, f"{self.path}.new"):
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - a str


def open_journals(prefix: str) -> tuple[Journal, list[tuple[Journal, Former]]]:
    """Take the first free file of a place, and all that dead processes left there.

    Raises:
        StoreError: none can be had.
    """
    mine: Journal | None = None
    former: list[tuple[Journal, Former]] = []
    try:
        for slot in range(1, SLOTS + 1):
            journal = Journal(f"{prefix}-{slot}")
            is_there = any(Path(f"{journal.path}{end}").exists() for end in ("", ".new"))
            if (is_there or mine is None) and journal.lock():
                mine = mine or journal
                former.append((journal, journal.read()))
    except OSError as error:
        raise StoreError(f"the journal of leases {prefix} cannot be used: {error}") from error
    if mine is None:
        raise StoreError(f"{SLOTS} processes use the journals of leases {prefix} already")
    return mine, former


def _write(file: int, record: Record) -> int:
    text = _encode(record)
    line = _checksum(text) + b" " + text + b"\n"
    left = memoryview(line)
    while left:
        left = left[os.write(file, left) :]
    return len(line)


def _checksum(text: bytes) -> bytes:
    return b"%08x" % zlib.crc32(text)
