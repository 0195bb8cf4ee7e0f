"""The place of one task in the waiting room, its turns, and what is told of it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from escalade_server.core.events import Event, TurnCame, TurnedAway
from escalade_server.core.facts import ErrorReason, Waiting
from escalade_server.core.standing import Standing
from escalade_server.core.task import Request
from escalade_server.engine.ports import Clock, Origin
from escalade_server.engine.resume import ResumeDesk
from escalade_server.engine.waiting import RoomFullError, Waiter, WaitingRoom

WAITER_BYTES = 8_192
"""What a waiter takes beside its request (R22)."""
BACK_S = 1.0
"""So long at most whoever comes back stands in line before it looks for capacity."""
BACK_MS = 500
"""So long at least: others are on their way back, too, and some of them waited longer."""
CLOSED = TurnedAway(
    ErrorReason.DRAINING,
    "the server shuts down; come back with the resume token, the place is kept",
)


class Shell(Protocol):
    """What a place needs of the engine."""

    clock: Clock
    room: WaitingRoom
    desk: ResumeDesk
    draining: bool

    def standing(self) -> Standing:
        """Shared state at this instant."""
        ...


async def turn(shell: Shell, request: Request, origin: Origin) -> None:
    """Let those go first who waited longer than one that comes back, whatever has just reopened.

    Its first look is a turn in the line, and counts for nobody: it takes its place with it. When
    many come back at once, as after a restart, they go in the order in which they waited.
    """
    if not request.waiting_since_ms or shell.draining:
        return
    came, size = asyncio.Event(), origin.size_bytes + WAITER_BYTES
    waiter = Waiter(
        request.agent, request.id, request.waiting_since_ms, size, came.set,
        shell.clock.now_ms() + BACK_MS, connection=origin.connection,
    )  # fmt: skip
    shell.room.enter(waiter, again=True)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(BACK_S):
                await came.wait()
    finally:
        shell.room.leave(waiter)


class Place:
    """Taken at the first wait, and kept through every turn until the task has ended."""

    def __init__(
        self, shell: Shell, request: Request, origin: Origin, feed: Callable[[Event], None]
    ) -> None:
        """Stand nowhere yet; ``feed`` tells the task that its turn has come."""
        self._shell, self._request, self._origin, self._feed = shell, request, origin, feed
        self._told = set(origin.told)
        self._waiter: Waiter | None = None
        self._stands = False
        """It was put into the line, or put off, at its last look."""

    def take(self, waiting: Waiting) -> TurnedAway | None:
        """Stand in line, or be put off; or answer why not.

        Whoever had a turn comes back to the same place.
        """
        if self._shell.draining:
            return CLOSED
        waiter, room = self._waiter or self._enter(), self._shell.room
        waiter.earliest_ms = waiting.earliest_ms
        waiter.reason, waiter.rule = waiting.reason, waiting.rule
        try:
            if waiter in room:
                room.put_off(waiter, waiting.earliest_ms)
            else:
                room.enter(waiter, again=self._waiter is not None)
        except RoomFullError as full:
            return TurnedAway(ErrorReason.TOO_MANY_WAITERS, str(full))
        self._waiter, self._stands = waiter, True
        return None

    def _enter(self) -> Waiter:
        request, origin = self._request, self._origin
        size = origin.size_bytes + WAITER_BYTES
        return Waiter(
            request.agent, request.id, self._since_ms(), size, self._look,
            connection=origin.connection,
        )  # fmt: skip

    def _since_ms(self) -> int:
        return self._request.waiting_since_ms or self._shell.clock.now_ms()

    def _look(self) -> None:
        """Its turn: what it finds takes it out of the line, else it has been put off."""
        self._stands = False
        self._feed(TurnCame(self._shell.standing()))
        if not self._stands:
            self.leave()

    def tell(self, waiting: Waiting) -> Waiting:
        """Fill in what only the room and the desk know."""
        waiter, shell, cause = self._waiter, self._shell, waiting.reason.value
        notify = waiting.notify and cause not in self._told
        if waiting.notify:
            self._told.add(cause)
        since_ms = self._since_ms() if waiter is None else waiter.since_ms
        return replace(
            waiting,
            position=0 if waiter is None else shell.room.position(waiter),
            notify=notify,
            resume_token=shell.desk.issue(self._request, since_ms, frozenset(self._told)),
        )

    def leave(self) -> None:
        """Stand in line no more; safe at any time."""
        if self._waiter is not None:
            self._shell.room.leave(self._waiter)
