"""A store in a process of its own, under load from several tasks, that is killed at a given point.

It writes to a pipe what it was promised, after it was promised: ``id word nanos``. The points are
spread over all code: the n-th call or return of any function, the n-th step of SQLite on its files
(a write also in its middle), or any instant, at the parent's hand.
"""

import asyncio
import os
import random
import signal
import sys
import threading
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import apsw

from escalade_server.core.catalog import Period, Unit
from escalade_server.core.events import Reserved
from escalade_server.core.task import Basis
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.ports import StoreError
from escalade_server.stores.sqlite import SqliteStore
from tests.stores.world import NOW_MS, HandClock, candidate, counter, reserve, settle

RESERVED_NANOS = 500
CAP_NANOS = 200 * RESERVED_NANOS
"""In reach: used up by the callers of some twenty lives."""
COUNTERS = (
    counter("requests", 100_000),
    counter("money", CAP_NANOS, Unit.NANOS, Period.MONTH),
    counter("minutely", 100_000, period=Period.MINUTE),
)
ORDER = candidate(*COUNTERS, nanos=RESERVED_NANOS)
CALLERS = 6
LIFE_MS = 100
"""By how much the clock of each life is later than that of the one before."""
HOLD_MS = 20 * LIFE_MS


class At(Enum):
    """What is counted until the end."""

    CODE = "calls and returns of functions"
    DISK = "steps of SQLite on its files"
    TIME = "instants"


class Plan(NamedTuple):
    """How one life goes."""

    number: int
    at: At
    steps: int
    """For ``TIME`` microseconds, which the parent counts ..."""
    from_open: bool
    """... from the moment the store is open, not from the fork."""
    full_from: int
    """Once the store is open, the disk is full from this write of SQLite on ..."""
    full_writes: int
    """... for so many."""


def plan(number: int) -> Plan:
    """Draw a life from its number."""
    chance = random.Random(number)
    at = list(At)[number % 3]
    most = {At.CODE: 16_000, At.DISK: 160, At.TIME: 40_000}[at]
    full = chance.randrange(30) if number % 5 == 0 else 1 << 30
    steps, from_open = chance.randrange(most), at is not At.TIME or chance.random() < 0.7
    return Plan(number, at, steps, from_open, full, chance.randrange(1, 12))


class Fate:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.left = plan.steps
        self.writes = -(1 << 30)
        """Counted from the moment the store is open."""

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def on_code(self, _frame: FrameType, _event: str, _what: object) -> None:
        self.left -= 1
        if self.left < 0:
            self.die()

    def on_disk(self, half: Callable[[], None] = lambda: None) -> None:
        if self.plan.at is At.DISK:
            self.left -= 1
            if self.left < 0:
                half()
                self.die()

    def on_write(self) -> None:
        self.writes += 1
        if 0 <= self.writes - self.plan.full_from < self.plan.full_writes:
            raise apsw.FullError("disk is full")


class FatalFile(apsw.VFSFile):
    """A file on which every step may be the last."""

    def __init__(self, name: apsw.URIFilename | str | None, flags: list[int], fate: Fate) -> None:
        super().__init__("", name, flags)
        self.fate = fate

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  # SQLite's name
        half = super().xWrite
        self.fate.on_disk(lambda: half(data[: len(data) // 2], offset))
        self.fate.on_write()
        super().xWrite(data, offset)
        self.fate.on_disk()

    def xSync(self, flags: int) -> None:  # noqa: N802  # SQLite's name
        self.fate.on_disk()
        super().xSync(flags)
        self.fate.on_disk()

    def xTruncate(self, size: int) -> None:  # noqa: N802  # SQLite's name
        self.fate.on_disk()
        super().xTruncate(size)
        self.fate.on_disk()

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802  # SQLite's name
        self.fate.on_disk()
        return super().xRead(amount, offset)


class FatalDisk(apsw.VFS):
    """Opens such files."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.name = "fatal"
        super().__init__(self.name, "")

    def xOpen(  # noqa: N802  # SQLite's name
        self, name: apsw.URIFilename | str | None, flags: list[int]
    ) -> apsw.VFSFile:
        return FatalFile(name, flags, self.fate)


async def caller(
    store: SqliteStore, clock: HandClock, name: str, tell: Callable[..., None]
) -> None:
    """Reserve and settle for ever, in every way there is; some are never settled."""
    for turn in range(1_000_000):
        id_, way = f"{name}-{turn}", (turn + len(name)) % 7
        nanos = (turn * 37) % RESERVED_NANOS
        try:
            if not isinstance(await store.reserve(reserve(id_, ORDER), clock.now_ms()), Reserved):
                tell(id_, "denied")
                await asyncio.sleep(0.002)
                continue
            tell(id_, "reserved", RESERVED_NANOS)
            if way == 5:
                continue  # never settled: an orphan
            if way == 6:
                held = settle(id_, hold_until_ms=clock.now_ms() + HOLD_MS)
                await store.settle(held, clock.now_ms())
                tell(id_, "uncertain")
                continue
            if way == 4:  # booked in full, then told what it was
                assumed = settle(id_, nanos=RESERVED_NANOS, basis=Basis.RESERVED)
                await store.settle(assumed, clock.now_ms())
                tell(id_, "assumed")
            for _ in range(1 + (way == 3)):  # twice is once
                await store.settle(settle(id_, nanos=nanos), clock.now_ms())
            tell(id_, "settled", nanos)
        except StoreError:
            tell(id_, "failed")
            await asyncio.sleep(0.001)


async def live(path: Path, plan: Plan, pipe: int) -> None:
    """Open the state and put it under load, until the end."""
    clock = HandClock(NOW_MS + plan.number * LIFE_MS)
    fate = Fate(plan)
    disk = FatalDisk(fate)

    def tell(id_: str, word: str, nanos: int = 0) -> None:
        os.write(pipe, f"{id_} {word} {nanos}\n".encode())

    if plan.at is At.CODE:
        threading.setprofile(fate.on_code)
        sys.setprofile(fate.on_code)
    store = SqliteStore(path, clock, Calendar(), vfs=disk.name)
    await store.open(COUNTERS)
    fate.writes = 0
    tell("-", "open")
    callers = (caller(store, clock, f"{plan.number}-{n}", tell) for n in range(CALLERS))
    await asyncio.gather(*callers)


def run(path: Path, plan: Plan, pipe: int) -> None:
    """Live in this process, which ends in any case."""
    try:
        asyncio.run(live(path, plan, pipe))
    except BaseException as error:  # noqa: BLE001  # the parent must hear of it
        os.write(pipe, f"- mistake {error!r}\n".replace("\n", " ").encode() + b"\n")
    finally:
        os._exit(0)
