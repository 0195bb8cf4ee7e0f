"""A proxy as they are met in the wild: whatever runs through it is cut after a while (P8)."""

import asyncio
from contextlib import suppress


class Road:
    """One address in front of a server that comes back elsewhere after each restart."""

    def __init__(self, cut_s: float) -> None:
        self.port = self.target = 0
        self.cuts = 0
        """Connections that were cut though both ends were well."""
        self._cut_s = cut_s
        self._works: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, target: int) -> None:
        self.target = target
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for work in list(self._works):
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)

    def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        work = asyncio.ensure_future(self._carried(reader, writer))
        self._works.add(work)
        work.add_done_callback(self._works.discard)

    async def _carried(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection, with all its streams, until an end closes it or it is cut."""
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # the server is being restarted
            writer.transport.abort()
            return
        pumps = [
            asyncio.ensure_future(_pump(*way)) for way in ((reader, far), (far_reader, writer))
        ]
        try:
            done, _ = await asyncio.wait(
                pumps, timeout=self._cut_s, return_when=asyncio.FIRST_COMPLETED
            )
            self.cuts += not done
        finally:
            for pump in pumps:
                pump.cancel()
            writer.transport.abort()
            far.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
