"""Lets tasks that wait look again when what they wait for opens before its time (R22, C11).

What this process gives back it tells the room itself. What people and other processes change is
seen here: a counter that was corrected downwards, a cooldown that was ended early.
"""

import asyncio
from typing import Protocol

from escalade_server.core.standing import Standing
from escalade_server.engine.ports import Clock
from escalade_server.engine.waiting import WaitingRoom

LOOK_S = 1.0


class Shared(Protocol):
    """What is looked at; a store is."""

    def standing(self, now_ms: int) -> Standing:
        """Shared state at this instant; the same object until something changes."""
        ...


class Shell(Protocol):
    """What it needs of the engine."""

    clock: Clock
    room: WaitingRoom

    @property
    def store(self) -> Shared:
        """The books."""
        ...


def reopened(before: Standing, now: Standing, now_ms: int) -> bool:
    """Tell whether anything is freer than it was, other than by time."""
    for key, was in before.balances.items():
        balance = now.balances.get(key)
        if was.ends_ms > now_ms and (
            balance is None or (balance.ends_ms == was.ends_ms and balance.spent < was.spent)
        ):
            return True
    for key, bench in before.benches.items():
        left = now.benches.get(key)
        if bench.until_ms > now_ms and (left is None or left.until_ms < bench.until_ms):
            return True
    return False


class Reopened:
    """Owned by one event loop."""

    def __init__(self, shell: Shell) -> None:
        """Take whose room it is."""
        self._shell = shell
        self._before = Standing()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Look once."""
        now_ms = self._shell.clock.now_ms()
        before, self._before = self._before, self._shell.store.standing(now_ms)
        changed = before is not self._before
        if self._shell.room and changed and reopened(before, self._before, now_ms):
            self._shell.room.look_again()
