"""Carries bytes to whichever server it is pointed at; can stop to, and drop whom it carries."""

import asyncio
from contextlib import suppress


class Relay:
    """One address; behind it another server after each takeover."""

    def __init__(self) -> None:
        self.target = 0
        self.delay_s = 0.0
        """How late everything arrives."""
        self._moving = asyncio.Event()
        self._moving.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._works: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def hold(self) -> None:
        """Carry nothing any more: what is said from now on is not heard."""
        self._moving.clear()

    def cut(self) -> None:
        """Drop every connection, with all that was held; carry again what comes."""
        for end in self._ends:
            end.transport.abort()
        self._ends.clear()
        self._moving.set()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._works, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        try:
            other_reader, other = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._ends.add(other)
        work = asyncio.ensure_future(self._both(reader, writer, other_reader, other))
        self._works.add(work)
        work.add_done_callback(self._works.discard)

    async def _both(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        other_reader: asyncio.StreamReader, other: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        await asyncio.gather(self._pump(reader, other), self._pump(other_reader, writer))
        await _close(writer, other)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await asyncio.sleep(self.delay_s)
                await self._moving.wait()
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()


async def _close(*ends: asyncio.StreamWriter) -> None:
    for end in ends:
        end.close()
        with suppress(OSError):
            await end.wait_closed()
