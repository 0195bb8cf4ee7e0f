"""A road between client and server that can vanish: bytes stop, and no FIN and no RST tells it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field


@dataclass(slots=True)
class Road:
    """A TCP forwarder. Once ``gone`` is set nothing is forwarded any more, either way."""

    port: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server has closed its end."""

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if not self.gone.is_set():
                    writer.write(data)
                    await writer.drain()
        if back:
            self.left.set()


@asynccontextmanager
async def road(to_port: int) -> AsyncIterator[Road]:
    """Forward connections to a port of this machine."""
    made, works = Road(), set[asyncio.Future[None]]()
    writers: list[asyncio.StreamWriter] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", to_port)
        writers.extend((writer, back))
        works.add(asyncio.ensure_future(made.carry(reader, back, back=False)))
        works.add(asyncio.ensure_future(made.carry(there, writer, back=True)))

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.port = listener.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listener.close()
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        for writer in writers:
            writer.transport.abort()
