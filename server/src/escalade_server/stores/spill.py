"""Where settlements wait while the ledger cannot be written: an append-only file beside it (S2).

One line for each settlement, with its checksum; a line is kept once it is synced. At the next
start the lines are booked before anything else, which changes nothing for those booked before.
Some room is taken in advance, because the usual cause is a full disk.
"""

import contextlib
import glob
import json
import os
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

from escalade_server.core.commands import Settle
from escalade_server.core.task import Basis
from escalade_server.engine.ports import StoreError
from escalade_server.stores import claims

ROOM_BYTES = 256 * 1024
"""Taken in advance: room for some 1,500 settlements."""


class Spill:
    """One journal, used on one thread; every method but ``open`` may be refused by the disk."""

    def __init__(self, path: str) -> None:
        """Say where; ``open`` makes the file."""
        self.path = path
        self.damaged = 0
        """Lines that could not be read: what they said is not known."""
        self._file: int | None = None
        self._end = 0

    def open(self) -> list[Settle]:
        """Open the file and answer what it still holds; a torn last line was never acknowledged.

        Raises:
            StoreError: another version wrote it.
            OSError: it cannot be opened.
        """
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        held = os.pread(self._file, os.fstat(self._file).st_size, 0)
        *lines, _torn = held.rstrip(b"\0").split(b"\n")
        orders = [order for line in lines if (order := self._parse(line)) is not None]
        self._end = sum(len(line) + 1 for line in lines)
        self._take_room()
        return orders

    def append(self, orders: Iterable[Settle]) -> None:
        """Keep settlements durably.

        Raises:
            OSError: the disk refuses this file, too; what it kept before stays.
        """
        assert self._file is not None, "open comes first"
        left = memoryview(b"".join(_line(order) for order in orders))
        end = self._end
        while left:
            written = os.pwrite(self._file, left, end)
            end, left = end + written, left[written:]
        os.fsync(self._file)
        self._end = end

    def clear(self) -> None:
        """Forget everything: it is in the ledger. Should that fail, it is booked again in vain."""
        if self._file is not None and self._end:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
                self._end = 0
            self._take_room()

    def close(self) -> None:
        """Let the file go; safe twice."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Do away with the file: it is in the ledger, and whose it was is gone for good."""
        self.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108 - a str

    def _take_room(self) -> None:
        assert self._file is not None, "open comes first"
        if sys.platform == "linux" and os.fstat(self._file).st_size < ROOM_BYTES:
            with contextlib.suppress(OSError):
                os.posix_fallocate(self._file, 0, ROOM_BYTES)

    def _parse(self, line: bytes) -> Settle | None:
        checksum, _, text = line.partition(b" ")
        if checksum != _checksum(text):
            self.damaged += 1
            return None
        try:
            id_, attempt, requests, tokens, nanos, charged, basis, *rest = json.loads(text)
            hold_until_ms, digest, figures = rest
            return Settle(
                id_, attempt, requests, tokens, nanos, charged, Basis(basis), hold_until_ms,
                digest, claims.figures_of(figures),
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"{self.path} was written by another version: start that one once, to book it"
            ) from error


def left_beside(prefix: str) -> list[Spill]:
    """Find the journals of workers of an earlier start, of which there may be fewer now."""
    place = Path(prefix)
    found = place.parent.glob(f"{glob.escape(place.name)}[0-9]*")
    return [Spill(str(path)) for path in sorted(found)]


def _line(order: Settle) -> bytes:
    told = [
        order.reservation_id, order.attempt, order.requests, order.tokens, order.nanos,
        order.charged_nanos, order.basis.value, order.hold_until_ms, order.digest,
        claims.text_of(order.figures),
    ]  # fmt: skip
    text = json.dumps(told).encode()
    return _checksum(text) + b" " + text + b"\n"


def _checksum(text: bytes) -> bytes:
    return f"{zlib.crc32(text):08x}".encode()
