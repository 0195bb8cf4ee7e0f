"""A task that waits, in the engine: it goes on by itself, in order, and keeps its place (R22)."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from escalade_server.core.catalog import Catalog
from escalade_server.core.events import Repeated
from escalade_server.core.facts import ErrorReason, Failed, Finished, Selected, Waiting
from escalade_server.core.standing import Balance, Standing, VerdictClass
from escalade_server.core.task import Basis, Request, Usage
from escalade_server.core.trace import Figures
from escalade_server.engine.place import BACK_S
from escalade_server.engine.ports import Origin
from escalade_server.engine.resume import KEPT_MS, ResumeDesk, ResumeTokenError
from escalade_server.engine.waiting import JITTER_MS, RoomLimits, WaitingRoom
from tests.core.builders import T0, catalog, model, per_day, request
from tests.engine.shell import FakeCaller, LoopClock, World

pytestmark = pytest.mark.looptime

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
KEY = "requests/day:openai/default/mini"


def one_model(limit: int = 5) -> Catalog:
    return catalog(
        ("only", (model("openai/mini", counters=(per_day("openai", "mini", limit),)),), ())
    )


def used_up(limit: int = 5, *, spent: int = 5, until_ms: int = T0 + MINUTE_MS) -> World:
    """A world whose only window is full until it reopens, a minute from now."""
    world = World(one_model(limit))
    world.store.balances[KEY] = Balance("w", spent, 0, until_ms)
    standing = world.store.standing

    def later(now_ms: int) -> Standing:
        if now_ms >= until_ms and world.store.balances[KEY].window == "w":
            world.store.balances[KEY] = Balance("next", 0, 0, T0 + 2 * HOUR_MS)
        return standing(now_ms)

    world.store.standing = later  # type: ignore[method-assign]
    return world


def patient(name: str = "r1", agent: str = "", content: str = "") -> Request:
    base = replace(request(deadline_ms=now_ms() + 30_000), id=name, agent=agent, content=content)
    return replace(base, ends_ms=now_ms() + 20 * HOUR_MS)


def never(_delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
    """Give no turn in time."""
    return asyncio.get_running_loop().call_later(99, call)


async def at_once() -> None:
    """Serve in the order of the calls, as a store does."""


def now_ms() -> int:
    return LoopClock().now_ms()


def waits(caller: FakeCaller) -> list[Waiting]:
    return [fact for fact in caller.heard if isinstance(fact, Waiting)]


def reason(caller: FakeCaller) -> ErrorReason:
    assert isinstance(caller.outcome, Failed), caller.outcome
    return caller.outcome.reason


async def test_a_window_reopens_and_the_task_goes_on_by_itself() -> None:
    world = used_up()
    caller = world.start(patient())
    await asyncio.sleep(1)
    assert world.store.calls == world.providers.reading == 0, "a waiter holds nothing"
    await world.rest()

    assert isinstance(caller.outcome, Finished)
    told = waits(caller)
    assert [one.position for one in told] == [1] * 5
    assert [one.notify for one in told] == [True, False, False, False, False]
    assert len({one.resume_token for one in told}) == 5
    assert MINUTE_MS <= caller.outcome.report.waited_ms <= MINUTE_MS + JITTER_MS
    assert len(world.engine.room) == 0


async def test_the_oldest_goes_first_fair_between_agents_and_never_more_than_fit() -> None:
    world = used_up()
    world.store._serve = at_once  # type: ignore[method-assign]
    order = ("a1", "a2", "a3", "a4", "b1", "c1")
    callers = {}
    for name in order:
        callers[name] = world.start(patient(name, agent=name[0]))
        await asyncio.sleep(0.01)
    assert [one.request_id for one in world.engine.waiters] == ["a1", "b1", "c1", "a2", "a3", "a4"]
    await asyncio.sleep(70)

    served = {name for name, caller in callers.items() if caller.outcome is not None}
    assert served == set(order) - {"a4"}
    [left] = world.engine.waiters
    assert (left.request_id, left.earliest_ms) == ("a4", T0 + 2 * HOUR_MS)
    callers["a4"].leave()
    await world.rest()
    assert reason(callers["a4"]) is ErrorReason.CANCELLED


async def test_turns_are_paced_when_hundreds_wait_for_one_window() -> None:
    world = used_up(1_000, spent=1_000)
    callers = [world.start(patient(f"r{n}")) for n in range(200)]
    await asyncio.sleep(60.3)
    early = sum(any(isinstance(f, Selected) for f in one.heard) for one in callers)
    assert 0 < early <= 80
    await world.rest()
    assert all(isinstance(one.outcome, Finished) for one in callers)


async def test_who_finds_room_held_by_running_calls_stays_in_the_line() -> None:
    world = used_up(3, spent=3)
    world.store._serve = at_once  # type: ignore[method-assign]
    world.providers.scripts["mini"] = [[1.0]] * 3
    callers = [world.start(patient(f"r{n}")) for n in range(9)]
    await asyncio.sleep(60.6)
    assert [any(isinstance(f, Selected) for f in one.heard) for one in callers] == (
        [True] * 3 + [False] * 6
    )
    assert [one.request_id for one in world.engine.waiters] == [f"r{n}" for n in range(3, 9)]
    told = [len(waits(one)) for one in callers]
    await asyncio.sleep(0.3)
    assert [len(waits(one)) for one in callers] == told, "a moment is nothing to tell of"
    back, again = replace(patient("back"), waiting_since_ms=T0), FakeCaller()
    world.engine.start(back, again, Origin())
    await asyncio.sleep(0.1)
    assert world.engine.waiters[0].request_id == "back", "it is not held up beside the line, either"
    await asyncio.sleep(5)
    assert {one.earliest_ms for one in world.engine.waiters} == {T0 + 2 * HOUR_MS}
    world.engine.hand_over()
    await world.rest()


async def test_room_that_a_call_gives_back_ends_a_wait_before_its_time() -> None:
    world = used_up(spent=4, until_ms=T0 + HOUR_MS)
    world.providers.scripts["mini"] = [[20.0]]
    first = world.start(patient("first"))
    await asyncio.sleep(0.1)
    world.store.balances[KEY] = Balance("w", 5, 0, T0 + HOUR_MS)  # as another process would
    second = world.start(patient("second"))
    await asyncio.sleep(0.1)
    assert waits(second)
    world.store.balances[KEY] = Balance("w", 3, 0, T0 + HOUR_MS)
    world.engine.room.given_back()
    await asyncio.sleep(2)
    assert isinstance(second.outcome, Finished)
    first.leave()
    await asyncio.sleep(1)


async def test_an_answered_request_id_does_not_wait() -> None:
    world = used_up()
    figures = Figures(Usage(1, 1), 5, 5, T0, T0)
    world.store.repeated = Repeated(0, "openai/default/mini", figures)
    caller = await world.ask(patient(content="same"))

    assert reason(caller) is ErrorReason.ALREADY_ANSWERED
    assert waits(caller) == []


async def test_an_id_that_is_free_waits_after_the_store_was_asked_once() -> None:
    world = used_up()
    caller = world.start(patient(content="new"))
    await asyncio.sleep(29)
    assert world.store.calls == 1
    assert len(waits(caller)) == 2
    await world.rest()
    assert isinstance(caller.outcome, Finished)


async def test_a_caller_who_leaves_while_the_store_is_asked_never_enters_the_room() -> None:
    world = used_up()
    caller = world.start(patient(content="new"))
    caller.leave()
    await world.rest()

    assert reason(caller) is ErrorReason.CANCELLED
    assert len(world.engine.room) == 0


async def test_a_full_room_turns_away_with_the_instant() -> None:
    world = used_up()
    world.engine.room._limits = RoomLimits(connection_waiters_max=1)
    callers = []
    for name, connection in (("r1", "x"), ("r2", "x"), ("r3", "y")):
        caller = FakeCaller()
        run = world.engine.start(patient(name), caller, Origin(connection))
        caller.leave = run.leave
        callers.append(caller)
        await asyncio.sleep(0.01)
    assert [caller.outcome is None for caller in callers] == [True, False, True]
    assert reason(callers[1]) is ErrorReason.TOO_MANY_WAITERS
    assert isinstance(callers[1].outcome, Failed)
    assert callers[1].outcome.retry_at_ms == T0 + MINUTE_MS
    await world.rest()


async def test_p4_waiters_are_handed_over_with_a_token_and_nobody_waits_here_any_more() -> None:
    world = used_up()
    caller = world.start(patient())
    await asyncio.sleep(5)
    world.engine.hand_over()
    late = world.start(patient("late"))
    await world.rest()

    assert reason(caller) is reason(late) is ErrorReason.DRAINING
    assert waits(caller)[-1].repeated
    assert len(world.engine.room) == 0
    kept = world.engine.desk.read(waits(caller)[-1].resume_token, patient())
    assert (kept.since_ms, kept.told) == (T0, ("rate",))


async def test_p8_a_place_survives_its_stream_and_the_user_is_notified_once() -> None:
    world = used_up()
    first = world.start(patient("old"))
    await asyncio.sleep(1)
    world.start(patient("young"))
    await asyncio.sleep(20)
    token = waits(first)[-1].resume_token
    first.leave()
    await asyncio.sleep(10)
    again = FakeCaller()
    asked, origin = world.engine.resumed(patient("old"), Origin(), token)
    world.engine.start(asked, again, origin)

    [told] = waits(again)
    assert (told.position, told.notify, told.reason) == (1, False, VerdictClass.RATE)
    assert [one.request_id for one in world.engine.waiters] == ["old", "young"]
    await world.rest()
    assert isinstance(again.outcome, Finished)


async def test_p8_a_place_is_kept_through_a_server_that_shuts_down_at_once() -> None:
    world = used_up()
    world.engine.hand_over()
    await asyncio.sleep(1)
    asked = replace(patient("old"), waiting_since_ms=T0 - 5_000)
    await world.engine.turn(asked, Origin())
    caller = world.start(asked)
    await world.rest()
    assert reason(caller) is ErrorReason.DRAINING
    assert world.engine.desk.read(waits(caller)[-1].resume_token, patient("old")).since_ms == (
        T0 - 5_000
    )


async def test_who_comes_back_goes_in_the_order_in_which_it_waited() -> None:
    world = used_up()
    back = [replace(patient(f"r{age}"), waiting_since_ms=T0 - age) for age in (1, 3, 2)]
    went: list[str] = []

    async def come(asked: Request) -> None:
        await world.engine.turn(asked, Origin())
        went.append(asked.id)

    await asyncio.gather(*map(come, back))
    assert went == ["r3", "r2", "r1"]
    assert len(world.engine.room) == 0
    before = now_ms()
    await come(patient("new"))
    assert now_ms() == before, "who never waited is not held up"


async def test_who_comes_back_is_not_held_up_for_long() -> None:
    world = used_up()
    world.engine.room = WaitingRoom(LoopClock(), world.engine.entropy, later=never)
    before = now_ms()
    await world.engine.turn(replace(patient(), waiting_since_ms=T0 - 1), Origin())
    assert now_ms() - before == BACK_S * 1_000
    assert len(world.engine.room) == 0


async def test_a_token_is_of_its_agent_id_and_content_alone() -> None:
    desk = ResumeDesk("s" * 32, LoopClock())
    mine = patient("mine", agent="bot", content="c1")
    token = desk.issue(mine, T0 - 5, frozenset({"rate"}))
    assert desk.read(token, mine).since_ms == T0 - 5
    others = (
        replace(mine, agent="other"), replace(mine, id="other"), replace(mine, content="other"),
        replace(mine, content=""),
    )  # fmt: skip
    for other in others:
        with pytest.raises(ResumeTokenError, match="another request"):
            desk.read(token, other)
    forged = ("", "x", "*", "é", token[:-4] + "AAA=", "A" + token[1:], token * 20)
    for bad in forged:
        with pytest.raises(ResumeTokenError, match="no token"):
            desk.read(bad, mine)
    with pytest.raises(ResumeTokenError, match="no token"):
        ResumeDesk("t" * 32, LoopClock()).read(token, mine)


async def test_a_token_without_the_callers_own_id_holds_for_the_id_that_was_given() -> None:
    desk = ResumeDesk("s" * 32, LoopClock())
    token = desk.issue(patient("given"), T0, frozenset())

    assert desk.read(token, patient("given", content="now it has one")).since_ms == T0


async def test_a_place_is_kept_for_120_s_after_it_was_last_told() -> None:
    desk = ResumeDesk("s" * 32, LoopClock())
    token = desk.issue(patient(), T0, frozenset({"rate"}))
    await asyncio.sleep(KEPT_MS / 1_000)
    assert desk.read(token, patient()).since_ms == T0
    await asyncio.sleep(0.01)
    assert desk.read(token, patient()) == (kept := desk.read(token, patient()))
    assert (kept.since_ms, kept.told) == (0, ("rate",)), "a new place, and nobody is notified twice"


async def test_nothing_is_charged_twice_by_looks_that_find_nothing() -> None:
    world = used_up()
    callers = [world.start(patient(f"r{n}")) for n in range(20)]
    await asyncio.sleep(90)
    done = [one for one in callers if isinstance(one.outcome, Finished)]

    assert len(done) == 5
    assert [order.basis for order in world.store.settles] == [Basis.REPORTED] * 5
    assert len(world.engine.waiters) == 15
    world.engine.hand_over()
    await world.rest()
