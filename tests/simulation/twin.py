"""The asyncio engine in the same world: its commands, to be held against the simulation's."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Sequence
from typing import Protocol, TypeVar

import pytest

from escalade_server.core import cascade
from escalade_server.core.catalog import Counter, Model
from escalade_server.core.commands import CallModel, Command, Reserve, SetBench, Settle
from escalade_server.core.events import (
    AttemptFailed,
    CallerLeft,
    ChunkArrived,
    Delta,
    Event,
    LeaseExtended,
    OutcomeReported,
    Repeated,
    ReportsEnded,
    ReservationDenied,
    Reserved,
)
from escalade_server.core.facts import Fact, Outcome, Selected
from escalade_server.core.session import Session
from escalade_server.core.standing import Standing
from escalade_server.core.tally import Tally
from escalade_server.core.task import Delivery, Request
from escalade_server.engine import run
from escalade_server.engine.calendar import Calendar
from escalade_server.engine.engine import Engine
from escalade_server.engine.ports import Kept, Provider, ProviderFailure, Spend, StoreError
from escalade_server.engine.repeats import Over
from escalade_server.engine.sessions import Sessions
from escalade_server.simulation.books import Books
from escalade_server.simulation.gates import Judge
from escalade_server.simulation.memory import Memory
from escalade_server.simulation.script import Fault, Now, Word
from escalade_server.simulation.store import AGAIN_US, ERROR
from escalade_server.simulation.worlds import World
from escalade_server.stores.sqlite import SqliteStore
from tests.engine.shell import FakeClassifier, FakeObserver, Serial

T = TypeVar("T")
Line = tuple[int, str, tuple[Command, ...]]
"""Wall ms, task id, what was ordered; steps that order nothing are left out."""


class Clock:
    """The wall of the world, by the loop's virtual time."""

    def __init__(self, world: World) -> None:
        self._world, self._loop = world, asyncio.get_running_loop()
        self._zero = self._loop.time()

    def now(self) -> Now:
        at_us = round((self._loop.time() - self._zero) * 1_000_000)
        jumped = sum(jump.by_ms for jump in self._world.jumps if jump.at_us <= at_us)
        return Now(at_us, self._world.begin_ms + jumped + at_us // 1_000)

    def now_ms(self) -> int:
        return self.now().ms


class TwinChecker(Judge):
    """The judge of the world."""

    def refusal(self, request: Request) -> str:
        del request
        return ""


class Keeper(Protocol):
    """The part of a store that keeps: the simulation's books, or SQLite's."""

    def standing(self, now_ms: int) -> Standing: ...

    def reserve(
        self, order: Reserve, now_ms: int
    ) -> Awaitable[Reserved | ReservationDenied | Repeated]: ...

    def settle(self, order: Settle, now_ms: int) -> Awaitable[None]: ...

    def bench(self, order: SetBench, now_ms: int) -> Awaitable[None]: ...


class Simulated:
    """The simulation's books, as a keeper."""

    def __init__(self) -> None:
        self._books = Books(Calendar(), lambda id_, candidate, now_ms: None, lambda id_, used: None)
        self.standing = self._books.standing

    async def reserve(self, order: Reserve, now_ms: int) -> Reserved | ReservationDenied:
        found = self._books.reserve(order, now_ms)
        if isinstance(found, Reserved):
            return found
        return ReservationDenied(order.attempt, found, self.standing(now_ms))

    async def settle(self, order: Settle, now_ms: int) -> None:
        self._books.settle(order, now_ms)

    async def bench(self, order: SetBench, now_ms: int) -> None:
        self._books.bench(order)


class TwinStore:
    """A keeper in the weather of the world, behind the engine's port."""

    def __init__(self, world: World, clock: Clock, keeper: Keeper) -> None:
        self.weather, self.clock, self.keeper = world.weather, clock, keeper
        self.standing = keeper.standing
        self._owed: set[asyncio.Task[None]] = set()

    async def open(self, counters: Sequence[Counter]) -> None: ...

    async def adopt(self, counters: Sequence[Counter], marks: object = None) -> None: ...

    async def close(self) -> None: ...

    async def tally(self, order: Tally, now_ms: int) -> None: ...

    async def find(self, reservation_id: str) -> Kept | None: ...

    def spends(self, now_ms: int) -> tuple[Spend, ...]:
        return ()

    async def reserve(self, order: Reserve, now_ms: int) -> Reserved | ReservationDenied | Repeated:
        service = self.weather.service(order, self.clock.now())
        await asyncio.sleep(service.before_us / 1e6)
        if service.fault is not Fault.REFUSED:
            found = await self.keeper.reserve(order, self.clock.now_ms())
        await asyncio.sleep(service.after_us / 1e6)
        if service.fault is not Fault.NONE:
            raise StoreError(ERROR)
        return found

    async def settle(self, order: Settle, now_ms: int) -> None:
        service = self.weather.service(order, self.clock.now())
        await asyncio.sleep(service.before_us / 1e6)
        if service.fault is not Fault.REFUSED:
            await self.keeper.settle(order, self.clock.now_ms())
        if service.fault is not Fault.NONE:
            self._owed.add(asyncio.ensure_future(self._again(order)))
        await asyncio.sleep(service.after_us / 1e6)
        if service.fault is not Fault.NONE:
            raise StoreError(ERROR)

    async def _again(self, order: Settle) -> None:
        await asyncio.sleep(AGAIN_US / 1e6)
        if self.weather.is_down(self.clock.now()):
            await self._again(order)
        else:
            await self.keeper.settle(order, self.clock.now_ms())

    async def bench(self, order: SetBench, now_ms: int) -> None:
        service = self.weather.service(order, self.clock.now())
        if service.fault is not Fault.REFUSED:
            await asyncio.sleep(service.before_us / 1e6)
            await self.keeper.bench(order, self.clock.now_ms())


class TwinSessions:
    """The simulation's memory, behind the engine's port."""

    def __init__(self) -> None:
        self._memory = Memory()

    def session(self, key: str, now_ms: int) -> Awaitable[Session | None]:
        return _done(self._memory.find(key, now_ms))

    def keep_session(self, key: str, agent: str, session: Session, now_ms: int) -> Awaitable[None]:
        self._memory.put(key, session)
        return _done(None)


def _done(value: T) -> "asyncio.Future[T]":
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    done.set_result(value)
    return done


class TwinProviders:
    """The simulated providers behind the engine's port."""

    def __init__(self, world: World, clock: Clock) -> None:
        self._world, self._clock = world, clock

    def of(self, model: Model) -> Provider:
        return self

    async def call(self, order: CallModel, request: Request) -> AsyncGenerator[ChunkArrived, None]:
        for step in self._world.providers.answer(order, request, self._clock.now()):
            await asyncio.sleep(step.delay_us / 1e6)
            match step.news:
                case ChunkArrived():
                    yield step.news
                case AttemptFailed(failure=failure):
                    raise ProviderFailure(failure)
                case _:
                    return
        await asyncio.Event().wait()


class TwinCaller:
    """Hears all; calls the models itself where the request says so."""

    def __init__(self, world: World, clock: Clock, request: Request) -> None:
        self._world, self._clock, self._request = world, clock, request
        self.run: run.Run | Over | None = None
        self._loop = asyncio.get_running_loop()

    def announce(self, fact: Fact) -> None:
        if isinstance(fact, Selected) and self._request.delivery is Delivery.ROUTE:
            words = self._world.providers.reports(fact, self._request, self._clock.now())
            self._say(words, 0)

    def _say(self, words: Sequence[Word], at: int) -> None:
        if at < len(words):
            self._loop.call_later(words[at].delay_us / 1e6, self._speak, words, at)

    def _speak(self, words: Sequence[Word], at: int) -> None:
        assert self.run is not None
        match words[at].report:
            case OutcomeReported() as outcome:
                self.run.report(outcome)
            case LeaseExtended(attempt):
                self.run.extend(attempt)
            case ReportsEnded():
                self.run.end_reports()
            case CallerLeft():
                self.run.leave()
        self._say(words, at + 1)

    def deliver(self, attempt: int, deltas: tuple[Delta, ...]) -> None: ...

    def end(self, outcome: Outcome) -> None: ...

    async def writable(self) -> None: ...


def _raised(error: Exception) -> str:
    raise AssertionError("the engine made a mistake") from error


def _at_once(work: Coroutine[None, None, Request]) -> Request:
    """Answer what is known without waiting."""
    try:
        work.send(None)
    except StopIteration as done:
        answer: Request = done.value
        return answer
    raise AssertionError("a session of this process is known at once")


async def play(world: World, patch: pytest.MonkeyPatch, *, sqlite: bool = False) -> list[Line]:
    """Run a world through the engine; answer every step that ordered something."""
    lines: list[Line] = []

    class Recorded(cascade.Cascade):
        """Writes down what it orders."""

        def handle(self, event: Event, *, now_ms: int) -> tuple[Command, ...]:
            commands = super().handle(event, now_ms=now_ms)
            if commands:
                lines.append((now_ms, self._task_id, commands))
            return commands

    patch.setattr(run, "Cascade", Recorded)
    clock = Clock(world)
    loop = asyncio.get_running_loop()
    store = SqliteStore(None, clock, Calendar())
    await store.open([c for model in world.catalog.models for c in model.counters])
    keeper: Keeper = store if sqlite else Simulated()
    engine = Engine(
        catalog=world.catalog, store=TwinStore(world, clock, keeper),
        providers=TwinProviders(world, clock), clock=clock, entropy=Serial(),
        observer=FakeObserver(), classifier=FakeClassifier(),
        checker=TwinChecker(world.seed), mistakes=_raised,
        sessions=Sessions(TwinSessions(), clock, "simulated"),
    )  # fmt: skip

    def start(request: Request, leaves_after_us: int | None) -> None:
        request = _at_once(engine.recalled(request))
        caller = TwinCaller(world, clock, request)
        task = caller.run = engine.start(request, caller)
        if leaves_after_us is not None:
            loop.call_later(leaves_after_us / 1e6, task.leave)

    for arrival in world.arrivals:
        loop.call_later(arrival.at_us / 1e6, start, arrival.request, arrival.leaves_after_us)
    await asyncio.sleep(world.arrivals[-1].at_us / 1e6 + 1)
    await engine.drain()
    await asyncio.sleep(7_200)  # settlements that are owed, connections that linger
    await store.close()
    return lines
