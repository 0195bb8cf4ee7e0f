"""Traces of tasks in the SQLite store: rows beside the feed, written with it.

A trace is kept packed. What another version wrote, and this one cannot read, is as good as none.
"""

import base64
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import apsw
import msgspec

from escalade_server.engine.ports import Clock
from escalade_server.engine.traces import KEPT_MAX, KEPT_MS, Trace, Wanted

if TYPE_CHECKING:
    from escalade_server.stores.feed import Notes

T = TypeVar("T")
PURGE_EVERY = 50
_INSERT = "INSERT INTO traces (at_ms, trace_id, request_id, agent, trace) VALUES (?, ?, ?, ?, ?)"
_PURGE = """
DELETE FROM traces
WHERE at_ms <= ? OR number <= (SELECT max(number) FROM traces) - ?
"""
_FIND = """
SELECT trace FROM traces
WHERE {column} = ?1 AND at_ms > ?2 AND (?3 IS NULL OR agent = ?3)
ORDER BY number DESC LIMIT 1
"""
_BY_REQUEST, _BY_TRACE = _FIND.format(column="request_id"), _FIND.format(column="trace_id")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Trace).decode


def packed(trace: Trace) -> str:
    """Write a trace as it is kept."""
    return base64.b85encode(zlib.compress(_encode(trace), 1)).decode()


def unpacked(text: str) -> Trace | None:
    """Read a trace that was kept."""
    try:
        return _decode(zlib.decompress(base64.b85decode(text)))
    except (ValueError, zlib.error):  # msgspec's errors are ValueErrors
        return None


class TraceTable:
    """The rows, inside the transactions of the books."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Take the books' connection."""
        self._db = connection
        self._since_purge = PURGE_EVERY

    def add(self, traces: Sequence[Trace], now_ms: int) -> None:
        """Write some; now and then drop what is too old or too many."""
        for each in traces:
            row = (each.at_ms, each.trace_id, each.request_id, each.agent, packed(each))
            self._db.execute(_INSERT, row)
        self._since_purge += len(traces)
        if self._since_purge >= PURGE_EVERY:
            self._db.execute(_PURGE, (now_ms - KEPT_MS, KEPT_MAX))
            self._since_purge = 0


def read(connection: apsw.Connection, wanted: Wanted, now_ms: int) -> Trace | None:
    """Look for a trace in a file."""
    sql, key = (
        (_BY_REQUEST, wanted.request_id) if wanted.request_id else (_BY_TRACE, wanted.trace_id)
    )
    text = connection.execute(sql, (key, now_ms - KEPT_MS, wanted.agent)).get
    return unpacked(text) if isinstance(text, str) else None


class SqliteTraces(ABC):
    """``TraceStore`` over the queue of the books."""

    _notes: "Notes"
    _clock: Clock

    @abstractmethod
    def _write_soon(self) -> None:
        """See that what is noted is written."""

    @abstractmethod
    async def _look(self, reader: Callable[[apsw.Connection], T]) -> T:
        """Read beside the writer."""

    def keep_trace(self, trace: Trace) -> None:
        """Take a trace; see ``TraceStore``."""
        self._notes.add(trace)
        self._write_soon()

    async def find_trace(self, wanted: Wanted) -> Trace | None:
        """Look for a trace; see ``TraceStore``."""
        return await self._look(partial(read, wanted=wanted, now_ms=self._clock.now_ms()))
