"""Watches this machine for a test: until something holds, and how much memory it takes."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LOOK_S = 0.005


async def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait until something holds; a machine under load has all the time of ``within_s``."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - what is looked at has no event
            await asyncio.sleep(LOOK_S)


@dataclass(slots=True)
class Grown:
    """Growth of the resident memory, in MB: the most that was seen."""

    most: float = 0.0


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 1e6


@asynccontextmanager
async def grown_mb() -> AsyncIterator[Grown]:
    """Watch the memory of this process, server and test alike."""
    grown, before = Grown(), resident_mb()

    async def watch() -> None:
        while True:
            grown.most = max(grown.most, resident_mb() - before)
            await asyncio.sleep(LOOK_S)

    watching = asyncio.ensure_future(watch())
    try:
        yield grown
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        grown.most = max(grown.most, resident_mb() - before)
