"""The engine over its real store, on a wall clock and a monotonic one that a test sets."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from escalade_server.bootstrap.state import counters_of
from escalade_server.checks.gates import AnswerGates
from escalade_server.core.catalog import Model
from escalade_server.core.commands import CallModel
from escalade_server.core.events import ChunkArrived, Finish, TextDelta
from escalade_server.core.facts import Failed, Finished, Outcome
from escalade_server.core.task import FinishReason, Request, Usage
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.engine import Engine
from escalade_server.engine.ports import Provider
from escalade_server.stores.sqlite import SqliteStore
from escalade_server.strategy.load import Loaded, loads
from tests.core.builders import request
from tests.engine.shell import FakeCaller, FakeClassifier, FakeObserver, Serial

SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1_000, 60_000, 3_600_000, 86_400_000
USAGE = Usage(20, 500)


def ms(text: str) -> int:
    """Unix ms of an instant in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


@dataclass(slots=True)
class Hands:
    """What the machine's two clocks say."""

    wall_ms: int
    passed_ms: int = 0
    clock: SystemClock = field(init=False)

    def clocked(self, *, witnessed: bool) -> None:
        """Make the product's clock over them."""
        self.clock = SystemClock(
            lambda: self.wall_ms * 1_000_000,
            lambda: self.passed_ms * 1_000_000,
            witnessed=witnessed,
        )

    def pass_to(self, at: str) -> None:
        """Let time pass until the wall shows this."""
        passed = ms(at) - self.wall_ms
        assert passed >= 0, "time passes forward"
        self.wall_ms += passed
        self.passed_ms += passed

    async def tick(self) -> None:
        """Let time pass with the event loop's, until cancelled."""
        while True:
            await asyncio.sleep(0.05)
            self.wall_ms += 50
            self.passed_ms += 50

    def jump(self, by_ms: int) -> None:
        """Set the wall, while no time passes; the product looks twice within some seconds."""
        self.wall_ms += by_ms
        for _ in range(3):
            self.wall_ms += SECOND_MS
            self.passed_ms += SECOND_MS
            self.clock.now_ms()


class Answers:
    """Answers every call; ``meanwhile`` happens between its first delta and the rest."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], None] = lambda: None
        self.calls = 0

    def of(self, model: Model) -> Provider:
        return self

    async def call(self, order: CallModel, request: Request) -> AsyncGenerator[ChunkArrived, None]:
        self.calls += 1
        yield ChunkArrived(order.attempt, (TextDelta("Hello"),))
        self.meanwhile()
        yield ChunkArrived(order.attempt, (), Finish(FinishReason.STOP), USAGE)


@dataclass(slots=True)
class Timed:
    """One engine."""

    loaded: Loaded
    hands: Hands
    store: SqliteStore
    engine: Engine
    provider: Answers
    numbers: "count[int]" = field(default_factory=count)

    async def ask(self) -> Outcome:
        """Run one task to its settled end."""
        caller = FakeCaller()
        now_ms = self.engine.clock.now_ms()
        asked = replace(request(deadline_ms=now_ms + HOUR_MS), id=f"r{next(self.numbers)}")
        self.engine.start(asked, caller)
        await self.engine.drain()
        assert caller.outcome is not None
        return caller.outcome

    async def is_answered(self) -> bool:
        return isinstance(await self.ask(), Finished)

    async def refusal(self) -> Failed:
        outcome = await self.ask()
        assert isinstance(outcome, Failed), outcome
        return outcome

    def windows(self, part: str) -> dict[str, int]:
        """What is booked in each window of a counter, by the window's id; nothing may be held."""
        query = (
            "SELECT label, spent, held FROM windows JOIN counters ON id = counter"
            " WHERE instr(key, ?) ORDER BY starts_ms"
        )
        found = self.store._connection.execute(query, (part,)).fetchall()
        assert all(held == 0 for _, _, held in found), found
        return {str(label): int(str(spent)) for label, spent, _ in found}


@asynccontextmanager
async def timed(
    strategy: str, at: str, *, witnessed: bool = False, state: Path | None = None
) -> AsyncIterator[Timed]:
    """Run the engine of a strategy from an instant on; without a path its state is in memory."""
    hands = Hands(ms(at))
    hands.clocked(witnessed=witnessed)
    loaded = loads(strategy, environ={}, assume_keys=True)
    store, provider = SqliteStore(state, hands.clock, Calendar()), Answers()
    await store.open(counters_of(loaded))
    engine = Engine(
        catalog=loaded.catalog, store=store, providers=provider, clock=hands.clock,
        entropy=Serial(), observer=FakeObserver(), classifier=FakeClassifier(),
        checker=AnswerGates(),
    )  # fmt: skip
    try:
        yield Timed(loaded, hands, store, engine, provider)
    finally:
        await store.close()
