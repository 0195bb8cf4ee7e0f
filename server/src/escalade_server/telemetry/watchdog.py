"""Watches the event loop: a loop that is blocked serves nobody, and says nothing of it (X6).

The loop beats; a thread looks whether it does, and where it hangs while it does not. Every stall
is one line of the log when it is over, with the place. Only a loop that is stuck for 30 s counts
as dead: a shorter stall is no reason to be restarted, which would cost every call in flight.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable

from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log

BEAT_S = 0.05
STALL_S = 0.25
DEAD_S = 30.0
FRAMES = 8


class Watchdog:
    """Watches the loop in which ``run`` runs. ``is_alive`` may be asked from any thread."""

    def __init__(
        self,
        log: Log,
        *,
        stall_s: float = STALL_S,
        dead_s: float = DEAD_S,
        told: Callable[[float], None] = lambda _late_s: None,
    ) -> None:
        """Keep the limits; nothing is watched before ``run``. ``told`` hears how late a beat is."""
        self._log, self._told = log, told
        self._stall_s, self._dead_s = stall_s, dead_s
        self._beat_s = time.monotonic()
        self._where: list[str] = []
        self.longest_ms = 0
        """The longest stall so far."""

    @property
    def is_alive(self) -> bool:
        """Whether the loop has beaten within the last 30 s."""
        return time.monotonic() - self._beat_s < self._dead_s

    @property
    def wrong(self) -> str:
        """What is wrong with the loop; nothing when it is alive."""
        return "" if self.is_alive else "the event loop is stuck"

    async def run(self) -> None:
        """Beat for ever, and log each stall when it is over."""
        over = threading.Event()
        self._beat_s = time.monotonic()
        thread = threading.Thread(
            target=self._look, args=(threading.get_ident(), over), name="escalade-watchdog",
            daemon=True,
        )  # fmt: skip
        thread.start()
        try:
            while True:
                await asyncio.sleep(BEAT_S)
                self._beat()
        finally:
            over.set()

    def _beat(self) -> None:
        now = time.monotonic()
        late_s, self._beat_s = now - self._beat_s - BEAT_S, now
        late_ms = int(late_s * 1_000)
        self._told(late_s)
        self.longest_ms = max(self.longest_ms, late_ms)
        if late_s > self._stall_s:
            self._log.warning(names.LOOP_STALLED, stalled_ms=late_ms, where=self._where)
        self._where = []

    def _look(self, loop_thread: int, over: threading.Event) -> None:
        """On the thread: note once a stall where the loop hangs, and say it when it is dead."""
        said_s = 0.0
        while not over.wait(self._stall_s / 2):
            beat_s = self._beat_s
            late_s = time.monotonic() - beat_s - BEAT_S
            if late_s > self._stall_s and not self._where:
                frame = sys._current_frames().get(loop_thread)  # noqa: SLF001 - there is no other way
                stack = traceback.extract_stack(frame)[-FRAMES:] if frame else ()
                self._where = [f"{at.filename}:{at.lineno} {at.name}" for at in stack]
            if late_s > self._dead_s and said_s != beat_s:
                said_s = beat_s
                self._log.error(names.LOOP_DEAD, stalled_ms=int(late_s * 1_000), where=self._where)
