"""A mistake of ours ends one task properly: told, cancelled, booked in full, forgotten."""

import asyncio
from collections.abc import Callable

import pytest

from escalade_server.core.cascade import Cascade
from escalade_server.core.commands import Command, Reserve
from escalade_server.core.events import ChunkArrived, Event, Reserved
from escalade_server.core.facts import ErrorReason, Fact, Failed, Finished, Selected
from escalade_server.core.task import Basis, Task
from escalade_server.engine.ports import StoreError
from tests.core.builders import request, three_layers
from tests.engine.shell import FakeCaller, World, finish, text

pytestmark = pytest.mark.looptime

CANARY = "the prompt nobody may read"
PAID = request(task=Task(type="debug", files=0, tokens=0))


def broken_at(monkeypatch: pytest.MonkeyPatch, kind: type[Event]) -> None:
    """Let the cascade break at the first event of a kind."""
    whole = Cascade.handle

    def handle(cascade: Cascade, event: Event, *, now_ms: int) -> tuple[Command, ...]:
        if isinstance(event, kind):
            raise ZeroDivisionError(CANARY)
        return whole(cascade, event, now_ms=now_ms)

    monkeypatch.setattr(Cascade, "handle", handle)


def heard(world: World) -> list[str]:
    """Listen to what the event loop is told of mistakes."""
    told: list[str] = []

    def hear(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        assert isinstance(context["exception"], Exception)
        told.append(str(context["message"]))

    asyncio.get_running_loop().set_exception_handler(hear)
    assert world.engine.running == 0
    return told


def failed(caller: FakeCaller) -> Failed:
    assert isinstance(caller.outcome, Failed)
    return caller.outcome


@pytest.mark.parametrize("kind", [ChunkArrived, Reserved])
async def test_it_is_told_by_an_opaque_id_and_booked_at_the_reserve(
    monkeypatch: pytest.MonkeyPatch, kind: type[Event]
) -> None:
    broken_at(monkeypatch, kind)
    world = World(three_layers())
    told = heard(world)

    caller = await world.ask(PAID)

    outcome = failed(caller)
    (mistake,) = told
    assert outcome.reason is ErrorReason.BUG
    assert f"mistake {dict(outcome.metadata)['id']}" == mistake
    assert CANARY not in repr(outcome)
    assert outcome.report.request_id == PAID.id
    assert world.observer.outcomes == [outcome]
    (settle,) = world.store.settles
    assert (settle.basis, settle.requests) == (Basis.RESERVED, 1)
    assert settle.nanos > 0
    assert settle.charged_nanos == 0  # a subscription
    assert world.store.open_ids == {}
    spent = {row.spent for row in world.store.balances.values()}
    assert spent == {settle.nanos}


async def test_calls_are_cancelled_and_later_news_is_ignored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken_at(monkeypatch, ChunkArrived)
    world = World(three_layers())
    told = heard(world)
    world.providers.scripts["mini"] = [[*text("Hel", "lo"), 50.0, finish()]]

    caller = await world.ask(request())

    assert failed(caller).reason is ErrorReason.BUG
    assert len(told) == 1
    assert asyncio.get_running_loop().time() < 10


async def test_a_reservation_on_its_way_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(three_layers())
    told = heard(world)
    caller = FakeCaller()
    run = world.engine.start(PAID, caller)
    monkeypatch.setattr(Cascade, "handle", _breaks)
    run.leave()  # breaks, while the store still works on the reservation
    await world.rest()

    assert failed(caller).reason is ErrorReason.BUG
    assert len(told) == 1
    (settle,) = world.store.settles
    assert (settle.requests, settle.tokens, settle.nanos) == (0, 0, 0)
    assert {row.held for row in world.store.balances.values()} == {0}


async def test_s13_a_reservation_that_may_be_held_is_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(three_layers())
    heard(world)
    reserve = world.store.reserve

    async def held_but(order: Reserve, now_ms: int) -> Reserved:
        await reserve(order, now_ms)
        raise StoreError("timeout")

    monkeypatch.setattr(world.store, "reserve", held_but)
    run = world.engine.start(PAID, FakeCaller())
    monkeypatch.setattr(Cascade, "handle", _breaks)
    run.leave()
    await world.rest()

    (settle,) = world.store.settles
    assert (settle.requests, settle.tokens, settle.nanos) == (0, 0, 0)
    assert {row.held for row in world.store.balances.values()} == {0}


def _breaks(_cascade: Cascade, event: Event, *, now_ms: int) -> tuple[Command, ...]:
    raise ZeroDivisionError(event, now_ms)


async def test_a_reservation_that_fails_leaves_nothing_to_settle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(three_layers(), fail=lambda _: True)
    heard(world)
    caller = FakeCaller()
    run = world.engine.start(PAID, caller)
    monkeypatch.setattr(Cascade, "handle", _breaks)
    run.leave()
    await world.rest()

    assert failed(caller).reason is ErrorReason.BUG
    assert world.store.settles == []


class Deaf(FakeCaller):
    """A caller's side that breaks when it is told something."""

    def __init__(self, breaks: Callable[[object], bool]) -> None:
        super().__init__()
        self.breaks = breaks

    def announce(self, fact: Fact) -> None:
        if self.breaks(fact):
            raise KeyError(CANARY)
        super().announce(fact)

    def end(self, outcome: object) -> None:
        if self.breaks(outcome):
            raise KeyError(CANARY)
        self.heard.append(outcome)


@pytest.mark.parametrize(
    ("kinds", "mistakes"), [({Selected}, 1), ({Finished}, 1), ({Selected, Failed}, 2)]
)
async def test_a_callers_side_that_breaks_loses_no_booking(kinds: set[type], mistakes: int) -> None:
    world = World(three_layers())
    told = heard(world)
    world.engine.start(PAID, Deaf(lambda what: type(what) in kinds))
    await world.rest()

    assert len(told) == mistakes
    assert len(world.store.settles) == 1
    assert world.store.open_ids == {}
