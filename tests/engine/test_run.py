import asyncio
from dataclasses import replace

import pytest

from escalade_server.core.catalog import Catalog
from escalade_server.core.facts import (
    ErrorReason,
    Escalated,
    Failed,
    Fallback,
    Finished,
    Retracted,
    Selected,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.rules import Rules
from escalade_server.core.standing import Balance, Standing
from escalade_server.core.task import Basis, Constraints
from escalade_server.core.trace import AttemptStatus
from escalade_server.engine.ports import StoreError
from escalade_server.engine.run import DRAINS_MAX
from tests.core.builders import DAY, T0, catalog, model, request, three_layers
from tests.engine.shell import FakeCaller, LoopClock, World, fails, finish, text

pytestmark = pytest.mark.looptime

MINI, FLASH = "requests/day:openai/default/mini", "requests/day:google/default/flash"
QUOTA = FailureClass.QUOTA_WINDOW


def reason(caller: FakeCaller) -> ErrorReason:
    assert isinstance(caller.outcome, Failed), caller.outcome
    return caller.outcome.reason


def told(caller: FakeCaller) -> list[type[object]]:
    return [type(what) for what in caller.heard]


def bumpy() -> World:
    """A world in which one task meets a 429, a broken stream and an escalation, then an answer."""
    world = World(three_layers())
    world.providers.scripts = {
        "mini": [[0.01, fails(QUOTA)]],
        "flash": [[0.01, *text("Hal", "f"), 0.01, fails(FailureClass.OUTAGE)]],
    }
    return world


def all_settled(world: World) -> None:
    assert world.store.open_ids == {}
    assert all(row.held == 0 for row in world.store.balances.values())
    ids = [order.reservation_id for order in world.store.settles]
    assert len(ids) == len(set(ids))


async def test_an_easy_task_from_end_to_end() -> None:
    world = World(three_layers())

    caller = await world.ask(request())

    assert isinstance(caller.outcome, Finished)
    assert caller.text == "Hello there"
    assert caller.outcome.report.ended_ms == T0 + 22
    assert world.observer.outcomes == [caller.outcome]
    assert world.observer.facts == caller.heard[:2]
    assert world.engine.health.output_means == {"openai/default/mini": 5}
    all_settled(world)


async def test_fallback_retraction_and_escalation_come_in_order() -> None:
    world = bumpy()

    caller = await world.ask(request())

    assert [t for t in told(caller) if t in {Selected, Fallback, Retracted, Escalated}] == [
        Selected, Fallback, Selected, Retracted, Escalated, Selected,
    ]  # fmt: skip
    assert caller.text == "HalfHello there"
    assert world.providers.called == ["mini", "flash", "glm"]
    assert "openai/default/mini" in world.store.benches
    all_settled(world)


@pytest.mark.parametrize("cls", FailureClass)
async def test_every_failure_of_a_provider_is_an_event(cls: FailureClass) -> None:
    world = World(three_layers())
    world.providers.scripts["mini"] = [[fails(cls)]]

    caller = await world.ask(request())

    assert caller.outcome is not None
    first = caller.outcome.report.attempts[0]
    assert (first.failure, first.detail) == (cls, f"said {cls.value}") or isinstance(
        caller.outcome, Finished
    )
    all_settled(world)


@pytest.mark.parametrize("words", [(), ("Hal",)])
async def test_a_bug_in_a_codec_is_a_failure_and_loses_no_settlement(
    words: tuple[str, ...],
) -> None:
    world = World(three_layers())
    world.providers.scripts["mini"] = [[*text(*words), ZeroDivisionError("secret")]]

    caller = await world.ask(request())

    assert isinstance(caller.outcome, Finished)
    first = caller.outcome.report.attempts[0]
    assert first.failure is FailureClass.UNKNOWN
    assert first.detail == "broke our decoder (ZeroDivisionError)"
    all_settled(world)


async def test_a_provider_that_cannot_be_found_is_a_failure_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(three_layers())
    monkeypatch.setattr(world.providers, "of", None)

    caller = await world.ask(request())

    assert isinstance(caller.outcome, Failed)
    assert caller.outcome.report.attempts[0].detail == "broke our decoder (TypeError)"
    all_settled(world)


async def test_r25_a_cancelled_call_ends_within_one_turn_of_the_loop() -> None:
    world = World(three_layers())
    world.providers.scripts["mini"] = [[*text("Hal"), 60.0]]
    caller = world.start(request())
    await asyncio.sleep(1)

    caller.leave()

    assert reason(caller) is ErrorReason.CANCELLED
    await asyncio.sleep(0)
    assert world.providers.cancelled_at == [1.0]
    await world.rest()
    all_settled(world)


def billing_to_the_end() -> Catalog:
    metered = replace(three_layers().models[4], bills_after_cancel=True)
    return catalog(("only", (metered,), ()))


async def left_while_reading(world: World, callers: int = 1) -> list[FakeCaller]:
    found = [world.start(request()) for _ in range(callers)]
    await asyncio.sleep(1)
    for caller in found:
        caller.leave()
        assert reason(caller) is ErrorReason.CANCELLED
    return found


async def test_r25_what_bills_to_its_end_is_read_on_for_its_usage() -> None:
    world = World(billing_to_the_end())
    world.providers.scripts["gpt"] = [[*text("Hal"), 30.0, *text("f"), finish()]]

    (caller,) = await left_while_reading(world)
    assert world.engine.drains == 1
    await world.rest()

    assert caller.text == "Hal", "nobody reads any more"
    assert world.providers.cancelled_at == []
    (booked,) = world.store.settles
    assert (booked.basis, booked.tokens) == (Basis.REPORTED, 25)


async def test_r25_a_drain_ends_after_a_minute_and_is_booked_in_full() -> None:
    world = World(billing_to_the_end())
    world.providers.scripts["gpt"] = [[*text("Hal"), 600.0]]

    await left_while_reading(world)
    await world.rest()

    assert world.providers.cancelled_at == [61.0]
    assert world.store.settles[0].basis is Basis.RESERVED


async def test_r25_at_most_64_are_read_on_the_others_are_booked_in_full_at_once() -> None:
    world = World(billing_to_the_end())
    script = [*text("Hal"), 30.0, finish()]
    world.providers.scripts["gpt"] = [list(script) for _ in range(DRAINS_MAX + 3)]

    await left_while_reading(world, DRAINS_MAX + 3)
    assert world.engine.drains == DRAINS_MAX
    await asyncio.sleep(0.1)
    assert [s.basis for s in world.store.settles] == [Basis.RESERVED] * 3
    await world.rest()

    assert len(world.store.settles) == DRAINS_MAX + 3
    assert len(world.providers.cancelled_at) == 3


async def test_r25_a_call_dropped_before_it_began_is_booked_at_once() -> None:
    world = World(billing_to_the_end())
    world.engine.drains = DRAINS_MAX
    caller = FakeCaller()
    run = world.engine.start(request(), caller)
    caller.leave, caller.leaves_at = run.leave, 2
    await asyncio.sleep(0.5)
    assert isinstance(caller.heard[1], Selected)

    assert world.engine.running == 0
    assert world.store.open_ids == {}
    world.engine.drains = 0
    await world.rest()


async def test_p3_the_caller_may_leave_at_every_step() -> None:
    steps = len((await bumpy().ask(request())).heard)
    assert steps > 8

    for k in range(1, steps + 1):
        world = bumpy()
        caller = await world.ask(request(), leaves_at=k)

        all_settled(world)
        assert told(caller).count(Failed) + told(caller).count(Finished) == 1


async def test_p3_the_caller_may_leave_at_every_millisecond() -> None:
    for ms in range(90):
        world = bumpy()
        caller = world.start(request())
        await asyncio.sleep(ms / 1000)
        caller.leave()
        await world.rest()

        all_settled(world)
        assert isinstance(caller.outcome, Failed | Finished)


async def test_s1_the_store_may_fail_at_every_call() -> None:
    world = bumpy()
    await world.ask(request())
    calls = world.store.calls
    assert calls >= 7

    for n in range(1, calls + 1):
        world = bumpy()
        world.store.fail = n.__eq__
        caller = await world.ask(request())

        assert isinstance(caller.outcome, Finished) or (
            reason(caller) is ErrorReason.LEDGER_UNAVAILABLE
        )
        assert len(world.store.open_ids) <= 1, "only what the store itself failed to settle"


async def test_a_store_that_always_fails_ends_the_task_without_a_call() -> None:
    world = World(three_layers(), fail=lambda _: True)

    caller = await world.ask(request())

    assert reason(caller) is ErrorReason.LEDGER_UNAVAILABLE
    assert world.providers.called == []


@pytest.mark.parametrize("when", ["reserve", "settle"])
async def test_a_stores_bug_or_cancelled_work_ends_the_task_too(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (asyncio.CancelledError(), KeyError("bug")):
        world = World(three_layers())

        async def broken(order: object, now_ms: int, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(world.store, when, broken)
        caller = await world.ask(request())

        assert reason(caller) is ErrorReason.LEDGER_UNAVAILABLE


async def test_a_denial_is_followed_by_the_circuits_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(three_layers())
    full = Balance("today", 50, 0, DAY)
    monkeypatch.setattr(world.store, "standing", lambda _: Standing())  # it has no circuits
    world.store.balances = {MINI: full, FLASH: full}
    now_ms = LoopClock().now_ms()
    for _ in range(5):
        world.engine.health.report("nano-gpt", ok=False, now_ms=now_ms)

    await world.ask(request())

    assert world.providers.called == ["m2"]


async def test_backpressure_reaches_the_provider() -> None:
    world = World(three_layers())
    world.providers.scripts["mini"] = [[*text("a", "b", "c"), finish()]]
    caller = world.start(request())
    caller.room.clear()
    await asyncio.sleep(5)
    assert caller.text == "a"

    caller.room.set()
    await world.rest()

    assert caller.text == "abc"


async def test_r24_time_limits_are_kept_and_timers_are_set_anew() -> None:
    world = World(three_layers())
    world.providers.scripts["mini"] = [[600.0]]
    slow = [step for word in text("a", "b", "c") for step in (40.0, word)]
    world.providers.scripts["flash"] = [[29.0, *text("x"), *slow, finish()]]

    caller = await world.ask(request(deadline_ms=T0 + 600_000))

    assert world.providers.cancelled_at == [pytest.approx(30.0, abs=0.01)]
    assert isinstance(caller.outcome, Finished)
    assert caller.text == "xabc", "each chunk has moved the instant of the idle limit"


async def test_r24_a_stall_is_noticed_at_its_instant() -> None:
    world = World(three_layers())
    world.providers.scripts["mini"] = [[1.0, *text("x"), 20.0, *text("y"), 600.0]]

    caller = await world.ask(request(deadline_ms=T0 + 600_000))

    assert world.providers.cancelled_at == [pytest.approx(66.0, abs=0.01)]
    assert isinstance(caller.outcome, Finished)
    assert caller.text == "xyHello there"


async def test_the_deadline_ends_the_task_at_its_instant() -> None:
    world = World(catalog(("only", (model("a/b"),), ())))
    world.providers.scripts["b"] = [[600.0]]

    caller = await world.ask(request(deadline_ms=T0 + 10_000))

    assert reason(caller) is ErrorReason.DEADLINE_REACHED
    assert caller.outcome is not None
    assert caller.outcome.report.ended_ms == T0 + 10_000
    all_settled(world)


async def test_r14_a_task_waits_for_what_is_held() -> None:
    one = three_layers(limit=1)
    world = World(replace(one, layers=one.layers[:1]))
    first = [world.start(request()) for _ in range(2)]
    await asyncio.sleep(0.005)
    waiting = world.start(request())
    await world.rest()

    assert all(isinstance(c.outcome, Finished) for c in first)
    assert reason(waiting) is ErrorReason.RATE_LIMITED
    assert world.providers.called == ["mini", "flash"]


async def test_guarantee_4_a_good_ending_waits_until_it_is_durable() -> None:
    world = World(three_layers())
    caller = world.start(request())
    await asyncio.sleep(0.015)
    world.store.hanging = asyncio.get_running_loop().create_future()
    await asyncio.sleep(100)
    assert caller.outcome is None

    world.store.hanging.set_result(None)
    await world.rest()

    assert isinstance(caller.outcome, Finished)


async def test_a_connection_that_lingers_after_the_answer_is_dropped() -> None:
    world = World(three_layers())
    world.providers.scripts["mini"] = [[*text("Hello"), finish(), 600.0]]

    caller = await world.ask(request())

    assert caller.outcome is not None
    assert caller.outcome.report.ended_ms < T0 + 10
    assert world.providers.cancelled_at == [pytest.approx(1.0, abs=0.01)]


async def test_r26_an_answer_is_not_kept_waiting_by_its_connection() -> None:
    world = World(three_layers())
    world.providers.scripts["mini"] = [[*text("Hello"), finish(usage=None), 600.0]]

    caller = await world.ask(request())

    assert isinstance(caller.outcome, Finished)
    assert caller.outcome.report.ended_ms == pytest.approx(T0 + 2_000, abs=10)
    assert caller.outcome.report.attempts[0].basis is Basis.ESTIMATED


async def test_a_slow_close_of_a_cancelled_call_holds_up_nobody() -> None:
    world = World(three_layers())
    world.providers.close_s = 0.5
    world.providers.scripts["mini"] = [[600.0]]

    caller = await world.ask(request())

    assert isinstance(caller.outcome, Finished)
    assert caller.outcome.report.ended_ms < T0 + 30_100


async def test_200_tasks_at_once_take_exactly_what_there_is() -> None:
    world = World(three_layers())
    callers = [world.start(request()) for _ in range(200)]
    for caller in callers[::2]:
        caller.leave()
    await world.rest()

    all_settled(world)
    assert world.store.balances[MINI].spent <= 50
    assert world.providers.called.count("mini") <= 50
    assert all(isinstance(c.outcome, Finished) for c in callers[1::2])


async def test_p4_drain_returns_at_once_when_nothing_runs() -> None:
    world = World(three_layers())

    await asyncio.wait_for(world.engine.drain(), 0.001)

    assert world.engine.spends() == ()


async def test_free_only_through_the_engine_never_pays() -> None:
    world = World(three_layers(Rules()))
    for name in ("mini", "flash"):
        world.providers.scripts[name] = [[fails(QUOTA)]]

    caller = await world.ask(request(constraints=Constraints(free_only=True)))

    assert reason(caller) is ErrorReason.RATE_LIMITED
    assert world.providers.called == ["mini", "flash"]
    assert caller.outcome is not None
    assert [a.status for a in caller.outcome.report.attempts] == [AttemptStatus.FAILED] * 2


async def test_r35_a_half_open_circuit_lets_one_probe_through() -> None:
    world = World(three_layers())
    for _ in range(5):
        world.engine.health.report("openai", ok=False, now_ms=T0)
    await world.ask(request())
    assert world.providers.called == ["flash"]
    await asyncio.sleep(10)
    world.providers.scripts["mini"] = [[1.0, *text("Hi"), finish()]]

    probe = world.start(request(deadline_ms=T0 + 60_000))
    await asyncio.sleep(0.5)
    other = world.start(request(deadline_ms=T0 + 60_000))
    await world.rest()

    assert world.providers.called == ["flash", "mini", "flash"]
    assert isinstance(probe.outcome, Finished)
    assert isinstance(other.outcome, Finished)
    assert world.engine.health.circuits(LoopClock().now_ms()) == {}


async def test_a_cooldown_that_is_not_kept_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(order: object, now_ms: int) -> None:
        raise errors.pop()

    for error in (StoreError("disk full"), asyncio.CancelledError(), KeyError("bug")):
        errors: list[BaseException] = [error]
        world = World(three_layers())
        monkeypatch.setattr(world.store, "bench", broken)
        world.providers.scripts["mini"] = [[fails(QUOTA)]]

        caller = await world.ask(request())

        assert isinstance(caller.outcome, Finished)
    assert "KeyError" in caplog.text, "a bug is told to the loop"
    assert caplog.text.count("Traceback") == 1
