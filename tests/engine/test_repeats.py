"""The same request id again (R27): what one process tells by itself, on virtual time."""

import asyncio
from dataclasses import replace

import pytest

from escalade_server.core.events import Repeated
from escalade_server.core.facts import ErrorReason, Failed, Finished
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Bench
from escalade_server.core.task import Basis, DataDemand, Delivery, Request, Task, Text, Usage
from escalade_server.core.trace import Figures
from escalade_server.engine import repeats
from tests.core.builders import T0, request, three_layers
from tests.engine.shell import STORE_S, FakeCaller, World, fails, finish, text

pytestmark = pytest.mark.looptime

KEEP_S = 600
STREAM = replace(request(), content="abc", agent="bot")
WHOLE = replace(STREAM, delivery=Delivery.WHOLE)
FIGURES = Figures(Usage(12, 34), 8_000, 7_000, 1, 2)


def exhausted() -> World:
    """A world in which every model is set aside for an hour."""
    world = World(three_layers())
    bench = Bench(T0 + 3_600_000, FailureClass.QUOTA_WINDOW, "full")
    world.store.benches = {model.key: bench for model in world.engine.catalog.models}
    return world


def reason(caller: FakeCaller) -> ErrorReason:
    assert isinstance(caller.outcome, Failed), caller.outcome
    return caller.outcome.reason


def answer(caller: FakeCaller) -> tuple[str, bool]:
    """Answer the text that came with the ending, and whether it was replayed."""
    assert isinstance(caller.outcome, Finished), caller.outcome
    parts = caller.outcome.answer.parts
    return "".join(p.text for p in parts if isinstance(p, Text)), caller.outcome.replayed


@pytest.mark.parametrize("first", [STREAM, WHOLE])
async def test_an_answer_is_told_again_while_it_is_kept(first: Request) -> None:
    world = World(three_layers())
    begun = await world.ask(first)
    again = await world.ask(WHOLE)
    assert answer(begun) == ("Hello there", False)
    assert answer(again) == ("Hello there", True)
    assert again.heard == [again.outcome]
    assert again.outcome is not None
    assert begun.outcome is not None
    assert again.outcome.report == begun.outcome.report
    assert len(world.providers.called) == len(world.store.settles) == 1
    assert world.observer.outcomes == [begun.outcome, again.outcome]


async def test_it_is_kept_for_its_time_and_then_forgotten_by_itself() -> None:
    world = World(three_layers())
    await world.ask(WHOLE)
    kept = world.engine.repeats._kept
    await asyncio.sleep(KEEP_S - 6)
    assert answer(await world.ask(WHOLE))[1]
    assert len(kept) == 1
    await asyncio.sleep(6)
    assert not kept  # with nobody asking
    assert world.engine.repeats._kept_bytes == 0


async def test_a_running_id_is_refused_until_it_ends() -> None:
    world = World(three_layers())
    callers = [world.start(WHOLE) for _ in range(50)]
    other = world.start(replace(WHOLE, content="xyz"))
    stranger = world.start(replace(WHOLE, agent="other", content="xyz"))
    await world.rest()
    assert answer(callers[0]) == ("Hello there", False)
    assert {reason(caller) for caller in callers[1:]} == {ErrorReason.REQUEST_IN_PROGRESS}
    assert reason(other) is ErrorReason.REQUEST_INVALID
    assert answer(stranger) == ("Hello there", False)
    assert len(world.providers.called) == 2


async def test_other_content_is_refused_while_the_answer_is_kept() -> None:
    world = World(three_layers())
    await world.ask(WHOLE)
    assert reason(await world.ask(replace(WHOLE, content="xyz"))) is ErrorReason.REQUEST_INVALID


@pytest.mark.parametrize(
    "asked",
    [
        replace(WHOLE, content=""),
        replace(WHOLE, task=Task("parse", 0, 0, data_demand=DataDemand.PRIVATE)),
    ],
    ids=["no id of the caller's", "private"],
)
async def test_what_may_not_be_kept_is_not(asked: Request) -> None:
    world = World(three_layers())
    for _ in range(2):
        await world.ask(asked)
    assert world.engine.repeats._kept == {}
    assert world.engine.repeats._running == {}


async def test_a_large_answer_is_not_kept_and_the_oldest_make_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repeats, "ANSWER_BYTES_MAX", 20_000)
    monkeypatch.setattr(repeats, "KEPT_BYTES_MAX", 60_000)
    world = World(three_layers())
    scripts = world.providers.scripts["mini"] = []
    sizes = [12_000] * 5 + [20_000]
    for number, size in enumerate(sizes):
        scripts.append([*text("x" * size), finish()])
        await world.ask(replace(WHOLE, id=f"r{number}"))
    held = world.engine.repeats
    assert [key for _, key in held._kept] == ["r2", "r3", "r4"]
    assert held._kept_bytes == sum(kept.size_bytes for kept in held._kept.values()) <= 60_000
    world.store.repeated = Repeated(1, "openai/default/mini", FIGURES)
    for number in (0, 5):
        told = await world.ask(replace(WHOLE, id=f"r{number}"))
        assert reason(told) is ErrorReason.ALREADY_ANSWERED


async def test_so_many_answers_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "KEPT_MAX", 3)
    world = World(three_layers())
    for number in range(5):
        await world.ask(replace(WHOLE, id=f"r{number}"))
    assert [key for _, key in world.engine.repeats._kept] == ["r2", "r3", "r4"]


async def test_what_the_store_knows_ends_the_task_before_any_call() -> None:
    world = World(three_layers())
    world.store.repeated = Repeated(1, "openai/default/mini", FIGURES)
    answered = await world.ask(WHOLE)
    world.store.repeated = Repeated(1)
    other = await world.ask(WHOLE)
    assert reason(answered) is ErrorReason.ALREADY_ANSWERED
    assert reason(other) is ErrorReason.REQUEST_INVALID
    assert answered.outcome is not None
    report = answered.outcome.report
    assert report.answered is not None
    assert report.answered.key == "openai/default/mini"
    assert (report.usage, report.list_nanos, report.charged_nanos) == (Usage(12, 34), 8_000, 7_000)
    assert world.providers.called == []
    assert world.store.settles == []


async def test_an_id_without_an_answer_is_free_at_once() -> None:
    world = World(three_layers())
    world.providers.scripts = {"mini": [[fails(FailureClass.BAD_REQUEST)]]}
    assert reason(await world.ask(WHOLE)) is ErrorReason.REQUEST_REJECTED
    assert answer(await world.ask(WHOLE)) == ("Hello there", False)
    assert len(world.store.settles) == 2


async def test_the_claim_goes_with_the_reservation_and_the_figures_with_the_settlement() -> None:
    world = World(three_layers())
    world.providers.scripts = {"mini": [[0.01, fails(FailureClass.OUTAGE)]]}
    caller = await world.ask(WHOLE)
    claims = {(order.request_id, order.content) for order in world.store.orders.values()}
    assert claims == {("r1", "abc")}
    assert isinstance(caller.outcome, Finished)
    report = caller.outcome.report
    first, second = world.store.settles
    assert first.figures is None
    assert second.figures is not None
    assert second.figures[:3] == (report.usage, report.list_nanos, report.charged_nanos)


async def test_who_leaves_while_it_settles_finds_the_answer_later() -> None:
    """It was whole already, and is charged: so it is kept, and told when the id comes again."""
    world = World(three_layers())
    world.providers.scripts = {"mini": [[*text("All", " of it"), finish()]]}
    gone = world.start(WHOLE)
    await asyncio.sleep(1.5 * STORE_S)
    assert world.store.calls == 2  # the settlement is on its way
    gone.leave()
    await world.rest()
    assert answer(await world.ask(WHOLE)) == ("All of it", True)
    assert [order.basis for order in world.store.settles] == [Basis.REPORTED]


async def test_who_leaves_before_an_answer_may_ask_again() -> None:
    world = World(three_layers())
    gone = await world.ask(WHOLE, leaves_at=2)
    again = await world.ask(WHOLE)
    assert reason(gone) is ErrorReason.CANCELLED
    assert answer(again) == ("Hello there", False)


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (Repeated(0, "openai/default/mini", FIGURES), ErrorReason.ALREADY_ANSWERED),
        (Repeated(0), ErrorReason.REQUEST_INVALID),
        (None, ErrorReason.RATE_LIMITED),
    ],
    ids=["answered", "other content", "new"],
)
async def test_an_answered_id_is_told_so_where_nothing_can_be_reserved(
    before: Repeated | None, why: ErrorReason
) -> None:
    world = exhausted()
    world.store.repeated = before
    told = await world.ask(WHOLE)
    assert reason(told) is why
    assert world.store.calls == 1
    assert world.store.open_ids == {}
    unnamed = await world.ask(replace(WHOLE, content=""))
    assert reason(unnamed) is ErrorReason.RATE_LIMITED
    assert world.store.calls == 1  # without an id nobody is asked


async def test_a_store_that_cannot_tell_changes_nothing() -> None:
    world = exhausted()
    world.store.fail = lambda _: True
    gone = world.start(WHOLE)
    assert gone.outcome is None
    assert world.engine.running == 1
    gone.leave()
    await world.rest()
    assert reason(gone) is ErrorReason.RATE_LIMITED
