"""A client of raw HTTP/2 frames: what a hostile or broken peer may send, and no library would."""

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from tests.faults.machine import until

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS = 4, 3
CANCEL = struct.pack(">I", 8)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
COMPLETE = "/escalade.v1.RouterService/Complete"
CHUNK_BYTES = 16_384
"""The largest frame that every peer must take."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _length(count: int) -> bytes:
    """An HPACK integer with a prefix of seven bits."""
    if count < 127:
        return bytes((count,))
    told, count = bytearray((127,)), count - 127
    while count >= 128:
        told.append(count % 128 + 128)
        count //= 128
    return bytes((*told, count))


def _fields(headers: dict[str, bytes]) -> bytes:
    """An HPACK block of literals, none of which is to be remembered."""
    return b"".join(
        b"\x00" + _length(len(name)) + name.encode() + _length(len(value)) + value
        for name, value in headers.items()
    )


def message(body: bytes, *, compressed: bool = False) -> bytes:
    """A gRPC message: flag, length, bytes."""
    return struct.pack(">BI", compressed, len(body)) + body


@dataclass(slots=True)
class Http2:
    """One connection. ``got`` counts the frames that came, by kind; ``ended`` once it is closed."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    got: Counter[int] = field(default_factory=Counter)
    data_bytes: int = 0
    settings: dict[int, int] = field(default_factory=dict)
    goaway: bytes = b""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    resets: set[int] = field(default_factory=set)
    """Streams that the server reset."""
    over: set[int] = field(default_factory=set)
    """Streams that the server ended, with a status or without."""
    credit: int = 65_535
    """What the server still takes on the connection; replenished by its WINDOW_UPDATE."""
    next_stream: int = 1

    def head(self, path: str = COMPLETE, **more: bytes) -> tuple[int, bytes]:
        """The number of a new stream, and the frame that opens it."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        fields = {
            ":method": b"POST", ":scheme": b"http", ":path": path.encode(), ":authority": b"here",
            "te": b"trailers", "content-type": b"application/grpc",
        }  # fmt: skip
        fields |= {name.replace("_", "-"): value for name, value in more.items()}
        return stream, frame(HEADERS, END_HEADERS, stream, _fields(fields))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def call(self, body: bytes, path: str = COMPLETE, **more: bytes) -> int:
        """Make a call whose one message is ``body``, flow control heeded; answer its stream."""
        stream, head = self.head(path, **more)
        await self.send(head)
        for at in range(0, len(body), CHUNK_BYTES):
            part = body[at : at + CHUNK_BYTES]
            await self.until(partial(self._may_send, stream, len(part)))
            if self.ended.is_set() or stream in self.resets:
                return stream
            self.credit -= len(part)
            last = END_STREAM if at + CHUNK_BYTES >= len(body) else 0
            await self.send(frame(DATA, last, stream, part))
        return stream

    def _may_send(self, stream: int, size: int) -> bool:
        return self.credit >= size or stream in self.resets

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, or the connection is over."""
        await until(lambda: holds() or self.ended.is_set())

    async def listen(self) -> None:
        """Take frames until the connection ends; SETTINGS are acknowledged, nothing else is."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await self.reader.readexactly(9)
                size, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
                stream = int.from_bytes(head[5:]) & 0x7FFFFFFF
                payload = await self.reader.readexactly(size)
                self.got[kind] += 1
                if kind == RST_STREAM or (kind in {DATA, HEADERS} and flags & END_STREAM):
                    self.over.add(stream)
                if kind == DATA:
                    self.data_bytes += size
                elif kind == RST_STREAM:
                    self.resets.add(stream)
                elif kind == GOAWAY:
                    self.goaway = payload
                elif kind == WINDOW_UPDATE and not stream:
                    self.credit += int.from_bytes(payload)
                elif kind == SETTINGS and not flags & ACK:
                    self.settings |= dict(struct.iter_unpack(">HI", payload))
                    await self.send(frame(SETTINGS, ACK, 0))
        self.ended.set()


@asynccontextmanager
async def http2(port: int, **settings: int) -> AsyncIterator[Http2]:
    """Connect; ``initial_window`` is what each of our streams takes before we say more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Http2(reader, writer)
    told = b""
    if "initial_window" in settings:
        told = struct.pack(">HI", INITIAL_WINDOW_SIZE, settings["initial_window"])
    listening = asyncio.ensure_future(client.listen())
    try:
        await client.send(PREFACE + frame(SETTINGS, 0, 0, told))
        yield client
    finally:
        listening.cancel()
        writer.transport.abort()
