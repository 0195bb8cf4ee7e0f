"""A server of raw bytes on the loopback: a test scripts every byte, and when the socket ends."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@dataclass(slots=True)
class Peer:
    """The server's end of one connection."""

    server: "RawServer"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self) -> bool:
        """Read one request whole; False at the end of the connection."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        self.server.heads.append(head)
        self.server.bodies.append(await self.reader.readexactly(length))
        return True

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, body: bytes, *, status: str = "200 OK", headers: bytes = b"") -> None:
        length = b"Content-Length: %d\r\n" % len(body)
        await self.send(
            b"HTTP/1.1 " + status.encode() + b"\r\n" + headers + length + b"\r\n" + body
        )

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def reset(self) -> None:
        """End with RST instead of FIN."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Return when the client has ended the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass


Script = Callable[[Peer], Awaitable[None]]


@dataclass(slots=True)
class RawServer:
    """What a test may know afterwards."""

    script: Script
    port: int = 0
    connections: int = 0
    open_now: int = 0
    open_most: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1/chat/completions"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            with suppress(ConnectionError):
                await self.script(Peer(self, reader, writer))
        finally:
            self.open_now -= 1
            writer.close()


@asynccontextmanager
async def serve(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Serve a script on an ephemeral port; connections still open at the end are dropped."""
    server = RawServer(script, scheme="https" if tls else "http")
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(server._connected(reader, writer))
        tasks.add(task)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        # A script that broke is a broken test.
        for end in ended:
            if isinstance(end, Exception):
                raise end
