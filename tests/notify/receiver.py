"""A real HTTP server that takes notices, and answers as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Receiver:
    """``answers`` are the statuses to come, the last one for ever; 0 hangs."""

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    got: asyncio.Event = field(default_factory=asyncio.Event)
    elsewhere: int = 0
    """Requests at the address that redirects lead to."""

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.bodies) < count:
                self.got.clear()
                await self.got.wait()


@asynccontextmanager
async def receiving(*answers: int) -> AsyncIterator[Receiver]:
    receiver, over = Receiver(answers=list(answers) or [200]), asyncio.Event()

    async def take(request: web.Request) -> web.Response:
        receiver.bodies.append(await request.read())
        receiver.headers.append({name.lower(): value for name, value in request.headers.items()})
        receiver.got.set()
        status = receiver.answers[0]
        if len(receiver.answers) > 1:
            receiver.answers.pop(0)
        if status == 0:
            await over.wait()
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async def wander(_: web.Request) -> web.Response:
        receiver.elsewhere += 1
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    app.router.add_route("*", "/elsewhere", wander)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        over.set()
        await runner.cleanup()
