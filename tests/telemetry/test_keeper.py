"""How tasks went is kept: the eventful beside the feed, of the others the last, and no message."""

import asyncio
import io
import json
import time
from dataclasses import dataclass, field, replace

import pytest

from escalade_server.core.facts import ErrorReason, Failed, Finished
from escalade_server.core.task import Message, Request, Role, Text
from escalade_server.engine.ports import StoreError
from escalade_server.engine.traces import Trace, Wanted
from escalade_server.telemetry import keeper as keeper_module
from escalade_server.telemetry import names
from escalade_server.telemetry.journey import Journey, Journeys
from escalade_server.telemetry.keeper import TraceKeeper
from escalade_server.telemetry.logs import make_logger
from escalade_server.telemetry.sink import LineSink
from escalade_server.telemetry.spans import spans_of
from tests.core.builders import request
from tests.engine.shell import LoopClock
from tests.telemetry.journeys import AROUND, CONTEXT, Recorder, bumpy, watched

PROMPT = "canary-of-the-prompt"


@dataclass
class Shelf:
    """A store of traces, in a list; it may be out of order."""

    kept: list[Trace] = field(default_factory=list)
    error: Exception | None = None

    def keep_trace(self, trace: Trace) -> None:
        if self.error is not None:
            raise self.error
        self.kept.append(trace)

    async def find_trace(self, wanted: Wanted) -> Trace | None:
        if isinstance(self.error, StoreError):
            raise self.error
        found = (trace for trace in reversed(self.kept) if trace.request_id == wanted.request_id)
        return next(found, None)


def keeper_of(shelf: Shelf) -> tuple[TraceKeeper, Journeys, io.StringIO]:
    stream = io.StringIO()
    log = make_logger(LineSink(stream), stream, "json", "error")
    running: dict[str, Journey] = {}
    keeper = TraceKeeper(shelf, AROUND, LoopClock(), log, running)
    return keeper, Journeys((keeper,), running), stream


def asked(number: int = 1, agent: str = "bo") -> Request:
    made = request()
    return replace(
        made, id=f"r{number}", agent=agent, messages=(Message(Role.USER, (Text(PROMPT),)),)
    )


@pytest.mark.looptime
async def test_an_eventful_task_is_kept_whole_with_the_spans_of_the_tracer() -> None:
    shelf, recorder = Shelf(), Recorder()
    keeper, by, _ = keeper_of(shelf)
    await watched(bumpy(), by, recorder).ask(replace(asked(), trace=CONTEXT))

    [trace] = shelf.kept
    [journey] = recorder.journeys.values()
    spans = spans_of(journey, AROUND)
    assert [span.id for span in trace.spans] == [span.id for span in spans]
    assert [span.name for span in trace.spans] == [span.name for span in spans]
    assert (trace.trace_id, trace.request_id, trace.agent) == (CONTEXT.trace_id, "r1", "bo")
    assert trace.spans[0].parent == ""
    assert trace.answered
    assert "escalated" in trace.story
    assert PROMPT not in f"{trace}"
    assert await keeper.find(Wanted(request_id="r1")) == trace
    assert await keeper.find(Wanted(trace_id=CONTEXT.trace_id)) == trace


@pytest.mark.looptime
async def test_an_uneventful_task_is_kept_here_for_a_while_without_its_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeper_module, "RING", 3)
    shelf, world = Shelf(), bumpy()
    world.providers.scripts.clear()
    keeper, by, _ = keeper_of(shelf)
    watched(world, by)
    for number in range(5):
        await world.ask(asked(number))

    assert shelf.kept == []
    assert [await keeper.find(Wanted(request_id=f"r{n}")) is not None for n in range(5)] == [
        False, False, True, True, True,
    ]  # fmt: skip
    found = await keeper.find(Wanted(request_id="r4"))
    assert found is not None
    assert [span.name.partition(" ")[0] for span in found.spans[1:]] == [
        "assess", "layer", "chat", "settle",
    ]  # fmt: skip
    assert "Hello" not in f"{keeper._ring}"  # what the model said
    assert PROMPT not in f"{keeper._ring}"
    assert not keeper._running


@pytest.mark.looptime
async def test_a_repeat_does_not_hide_the_task_that_it_repeats() -> None:
    shelf, recorder = Shelf(), Recorder()
    keeper, by, _ = keeper_of(shelf)
    await watched(bumpy(), by, recorder).ask(asked())
    [journey] = recorder.journeys.values()
    first = journey.outcome
    assert isinstance(first, Finished)

    by.ended("again", asked(), first._replace(replayed=True))
    for reason in (ErrorReason.REQUEST_IN_PROGRESS, ErrorReason.ALREADY_ANSWERED):
        by.ended("again", asked(), Failed(reason, "it ran before", first.report))

    [trace] = shelf.kept
    assert await keeper.find(Wanted(request_id="r1")) == trace


@pytest.mark.looptime
async def test_an_agent_finds_its_own_only() -> None:
    keeper, by, _ = keeper_of(Shelf())
    world = watched(bumpy(), by)
    world.providers.scripts.clear()
    await world.ask(asked(1, "bo"))
    assert await keeper.find(Wanted(request_id="r1", agent="bo")) is not None
    assert await keeper.find(Wanted(request_id="r1", agent="eve")) is None
    assert await keeper.find(Wanted(request_id="r1", agent="")) is None


@pytest.mark.looptime
async def test_a_task_is_seen_while_it_runs() -> None:
    keeper, by, _ = keeper_of(Shelf())
    world = watched(bumpy(), by)
    world.providers.scripts["mini"] = [[100.0]]
    world.start(asked())
    await asyncio.sleep(5)
    found = await keeper.find(Wanted(request_id="r1"))
    assert found is not None
    assert not found.answered
    assert found.story == ""
    assert found.spans[-1].name.startswith("chat ")
    assert found.spans[-1].end_ms - found.spans[-1].start_ms >= 4_000
    await world.rest()


@pytest.mark.looptime
async def test_what_cannot_be_kept_is_logged_and_disturbs_nobody() -> None:
    shelf = Shelf(error=RuntimeError("a bug"))
    keeper, by, stream = keeper_of(shelf)
    caller = await watched(bumpy(), by).ask(asked())
    assert caller.outcome is not None
    while not stream.getvalue():  # a thread writes it, in real time
        time.sleep(0.01)  # noqa: ASYNC251
    [line] = [json.loads(each) for each in stream.getvalue().splitlines()]
    assert line["event"] == names.OBSERVER_FAILED
    shelf.error = StoreError("gone")
    with pytest.raises(StoreError):
        await keeper.find(Wanted(request_id="r9"))
