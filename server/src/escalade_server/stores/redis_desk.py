"""What an operator's command does to a ledger in Redis beside its servers: one script a call."""

import asyncio
from typing import Self

from escalade_server.engine.ports import StoreError
from escalade_server.stores import redis_wire as wire
from escalade_server.stores.redis_link import Link, Place, Refused, Unreachable
from escalade_server.stores.redis_wire import Field, Reply

PATIENCE_S = 5.0
"""A person waits longer than a call does."""


class RedisDesk:
    """Scripts, run one at a time by a program without an event loop. ``close`` it."""

    def __init__(self, place: Place) -> None:
        """Say where; the first script connects."""
        self._place = place
        self._link = Link(place)
        self._runner = asyncio.Runner()

    def run(self, script: str, *fields: Field, now_ms: int | None = None) -> Reply:
        """Run a script, under whatever epoch; ``now_ms`` is given by tests only.

        Raises:
            StoreError: Redis is not there, or will not.
        """
        answer = self._runner.run(self._run(script, wire.packed(now_ms, None, *fields)))
        if isinstance(answer, Refused):
            raise StoreError(answer.detail)
        return wire.reply_of(answer)

    async def _run(self, script: str, order: bytes) -> bytes | Refused:
        try:
            if not self._link.is_up:
                await self._link.connect()
            until_s = asyncio.get_running_loop().time() + PATIENCE_S
            [answer] = await self._link.run([(script, order)], until_s)
        except Unreachable as error:
            raise StoreError(f"{error}") from error
        return answer

    def close(self) -> None:
        """Disconnect; safe twice."""
        if self._link.is_up:
            self._runner.run(self._link.close())
        self._runner.close()

    def __enter__(self) -> Self:
        """Be there for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self.close()
