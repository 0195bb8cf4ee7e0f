"""Work that goes on beside the tasks: started again when it dies, missed when it keeps dying (X7).

Rules of the file:
1. Work never ends by itself; that it ended, however, is a death.
2. A death costs a moment, never the process: the work starts again from the beginning.
3. What died three times without living for a minute in between makes the process not ready, until
   it lives again for that long.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

from escalade_server.engine.ports import Mistakes

Work = Callable[[], Coroutine[None, None, None]]
RESTART_S = 1.0
SOUND_S = 60.0
DEATHS_MAX = 3


class Told(Protocol):
    """Is told whether the process may serve, whenever that changes."""

    def __call__(self, *, well: bool) -> Awaitable[None]:
        """Take it."""
        ...


class WorkEndedError(Exception):
    """Background work returned, or keeps dying."""


class Background:
    """Keeps work alive. Owned by one event loop."""

    def __init__(self, mistakes: Mistakes, told: Told) -> None:
        """Say to ``mistakes`` what the work died of, and to ``told`` whether it lives."""
        self._mistakes, self._told = mistakes, told
        self._keepers: list[asyncio.Task[None]] = []
        self._dying: set[Work] = set()
        self.deaths = 0
        """How often any of it died."""

    def start(self, work: Work) -> None:
        """Start a piece of work, and keep it alive until ``stop``."""
        self._keepers.append(asyncio.create_task(self._keep(work)))

    async def stop(self) -> None:
        """End all work; safe twice."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers.clear()

    async def _keep(self, work: Work) -> None:
        deaths = 0
        while True:
            life = asyncio.create_task(work())
            try:
                done, _ = await asyncio.wait({life}, timeout=SOUND_S)
                if not done:
                    deaths = 0
                    await self._lives(work)
                    await asyncio.wait({life})
            except asyncio.CancelledError:
                life.cancel()
                await asyncio.wait({life})
                raise
            deaths += 1
            self.deaths += 1
            self._mistakes(_cause(life))
            if deaths == DEATHS_MAX:
                self._dying.add(work)
                self._mistakes(WorkEndedError())
                await self._told(well=False)
            await asyncio.sleep(RESTART_S)

    async def _lives(self, work: Work) -> None:
        if work in self._dying:
            self._dying.discard(work)
            if not self._dying:
                await self._told(well=True)


def _cause(life: "asyncio.Task[None]") -> Exception:
    error = None if life.cancelled() else life.exception()
    return error if isinstance(error, Exception) else WorkEndedError()
