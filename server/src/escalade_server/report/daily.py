"""Makes the report of each day when it has ended, once, whoever else does so too.

It is kept as it was made: corrections that come later (R32) change what ``GetUsageReport`` says of
the day, not what was told of it.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import msgspec

from escalade_server.engine.ports import Clock, StoreError
from escalade_server.engine.usage import Reports, UsageReport, UsageStore
from escalade_server.report import period as periods
from escalade_server.report.text import as_json

LOOK_S = 60.0
"""How often it looks whether a day has ended: an end comes late rather than never (T4)."""
SETTLE_MS = 60_000
"""How long calls of a day's last moments have to be booked."""
LATE_DAYS = 7
"""Days without a report that are caught up with, after a server was down or did not want any."""


class DailyReports:
    """Background work of a server; ends when it is cancelled."""

    def __init__(
        self,
        reports: Reports,
        store: UsageStore,
        clock: Clock,
        *,
        zone: str,
        wanted: Callable[[], bool],
        made: Callable[[UsageReport], None],
    ) -> None:
        """``wanted`` says whether reports are wanted now; ``made`` hears of each, once."""
        self._reports, self._store, self._clock, self._zone = reports, store, clock, zone
        self._wanted, self._made = wanted, made
        self._done = ""
        """The last day that has been looked at; days of the same minute need no look."""

    async def run(self) -> None:
        """Look every minute; never ends."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Make what is due. A store that cannot be read is asked again later."""
        today = periods.today(self._clock.now_ms() - SETTLE_MS, self._zone)
        if not self._wanted() or self._done == today.isoformat():
            return
        since = (today - timedelta(days=LATE_DAYS)).isoformat()
        try:
            for day in await self._store.unreported(since, today.isoformat()):
                await self._make(day)
        except StoreError:
            return
        self._done = today.isoformat()

    async def _make(self, day: str) -> None:
        report = await self._reports.report(day, None)
        text = msgspec.json.encode(as_json(report)).decode()
        if await self._store.keep_report(day, text, self._clock.now_ms()):
            self._made(report)
