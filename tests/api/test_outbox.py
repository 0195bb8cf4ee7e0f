"""The outbox alone: order, numbers, joining, what waits and what never does, backpressure."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade.v1.escalation_pb2 import Event
from escalade_server.api.outbox import HIGH_WATER_CHARS, Outbox, Response
from escalade_server.core.events import (
    Delta,
    ReasoningDelta,
    StateDelta,
    TextDelta,
    ToolCallDelta,
)
from escalade_server.core.facts import (
    Alert,
    AlertKind,
    ErrorReason,
    Fact,
    Fallback,
    Retracted,
    Waiting,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import VerdictClass
from escalade_server.core.task import ProviderState
from tests.api.world import ASSESSED, ESCALATED, MODELS, NOW_MS, failed, finished, selected

pytestmark = pytest.mark.looptime  # time passes only while everyone waits

STATE = StateDelta(ProviderState("anthropic", "opus", b"sig"))
WAITING = Waiting(VerdictClass.RATE, NOW_MS + 60_000, "free: 50 a day", "all exhausted", 1)


def outbox(*, whole: bool = False, flush_s: float = 0.0) -> Outbox:
    return Outbox(asyncio.get_running_loop(), whole=whole, flush_s=flush_s)


async def soon(box: Outbox) -> Response:
    """Take what is due within a moment that is much shorter than a hold."""
    return await asyncio.wait_for(box.take(), 0.005)


@pytest.mark.parametrize(
    "fact",
    [
        ESCALATED,
        WAITING,
        Retracted(1, FailureClass.OUTAGE, "cut"),
        Fallback(1, MODELS[0], MODELS[1], FailureClass.OUTAGE, "503"),
        Alert(AlertKind.BUDGET, "80 %"),
    ],
)
async def test_these_never_wait_and_take_the_bookkeeping_along(fact: Fact) -> None:
    box = outbox()
    box.announce(ASSESSED)
    box.announce(fact)

    assert len((await soon(box)).events) == 2


@pytest.mark.parametrize("fact", [ASSESSED, selected()])
async def test_bookkeeping_waits_20_ms_for_the_first_delta_and_no_more(fact: Fact) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    box = outbox()
    box.announce(fact)
    await asyncio.wait_for(box.take(), 1)

    assert 0.019 <= loop.time() - begun < 0.1


async def test_the_first_token_goes_at_once_with_what_waited() -> None:
    box = outbox()
    box.announce(ASSESSED)
    box.announce(selected())
    box.deliver(1, (TextDelta("a"),))
    response = await soon(box)

    assert [e.WhichOneof("kind") for e in response.events] == ["assessed", "selected", "delta"]


async def test_later_deltas_go_as_soon_as_the_writer_is_free() -> None:
    box = outbox()
    box.deliver(1, (TextDelta("a"),))
    await soon(box)
    box.deliver(1, (TextDelta("b"),))
    box.deliver(1, (TextDelta("c"),))
    response = await soon(box)

    assert [e.delta.text for e in response.events] == ["bc"]
    assert response.events[0].sequence == 2


async def test_tool_calls_join_by_slot_and_keep_id_and_name() -> None:
    box = outbox()
    box.deliver(1, (ToolCallDelta(0, "c1", "search", "{"), ToolCallDelta(0, "", "", "}")))
    box.deliver(1, (ToolCallDelta(1, "c2", "read", ""), ToolCallDelta(1, "", "", "{}")))
    calls = [event.delta.tool_call for event in (await soon(box)).events]

    assert [(c.index, c.id, c.name, c.arguments_json_fragment) for c in calls] == [
        (0, "c1", "search", "{}"),
        (1, "c2", "read", "{}"),
    ]


async def test_vendor_state_is_never_joined() -> None:
    box = outbox()
    box.deliver(1, (STATE, STATE))
    states = [event.delta.provider_state for event in (await soon(box)).events]

    assert [state.data for state in states] == [b"sig", b"sig"]


async def test_attempts_are_never_joined() -> None:
    box = outbox()
    box.deliver(1, (TextDelta("a"),))
    box.deliver(2, (TextDelta("b"),))

    assert [e.delta.attempt for e in (await soon(box)).events] == [1, 2]


async def test_flush_interval_joins_all_but_the_first_of_an_attempt() -> None:
    box = outbox(flush_s=0.05)
    box.deliver(1, (TextDelta("a"),))
    first = await soon(box)
    for letter in "bcd":
        box.deliver(1, (TextDelta(letter),))
        await asyncio.sleep(0.005)
    later = await asyncio.wait_for(box.take(), 1)
    box.deliver(1, (TextDelta("e"),))
    box.end(finished())
    last = await soon(box)

    assert [e.delta.text for e in first.events] == ["a"]
    assert [e.delta.text for e in later.events] == ["bcd"]
    assert [e.WhichOneof("kind") for e in last.events] == ["delta", "finished"]


async def test_backpressure_begins_at_the_high_water_mark_and_ends_with_the_write() -> None:
    box = outbox()
    box.deliver(1, (TextDelta("x" * (HIGH_WATER_CHARS - 1)),))
    await asyncio.wait_for(box.writable(), 0.1)
    box.deliver(1, (TextDelta("xx"),))
    waiting = asyncio.ensure_future(box.writable())
    await asyncio.sleep(0.01)
    held = not waiting.done()
    await box.take()
    await asyncio.wait_for(waiting, 0.1)

    assert held


async def test_a_closed_outbox_lets_the_provider_go_on_and_keeps_nothing() -> None:
    box = outbox()
    box.deliver(1, (TextDelta("x" * HIGH_WATER_CHARS),))
    waiting = asyncio.ensure_future(box.writable())
    await asyncio.sleep(0)
    box.close()
    await asyncio.wait_for(waiting, 0.1)
    box.announce(ESCALATED)
    box.deliver(1, (TextDelta("x"),))
    box.end(finished())

    assert box.ended


async def test_a_cancelled_task_has_nothing_to_say() -> None:
    box = outbox()
    box.end(failed(ErrorReason.CANCELLED))

    assert len((await soon(box)).events) == 0
    assert box.outcome is not None


async def test_halves_of_a_surrogate_pair_are_joined_and_lone_ones_replaced() -> None:
    box = outbox()
    box.deliver(1, (TextDelta("\ud83d"), TextDelta("\ude00")))
    box.deliver(2, (TextDelta("a\ud83d"),))

    assert [e.delta.text for e in (await soon(box)).events] == ["\U0001f600", "a\ufffd"]


async def test_status_can_see_which_model_is_being_called() -> None:
    box = outbox()
    box.announce(selected(1, MODELS[0]))
    calling = box.running
    box.announce(ESCALATED)
    between = box.running
    box.announce(selected(2, MODELS[2]))
    box.end(finished())

    assert (calling, between, box.running) == (MODELS[0], None, None)


# ----------------------------------------------------------------- the grammar, as a property

DELTAS = st.one_of(
    st.text(max_size=3).map(TextDelta),
    st.text(max_size=3).map(ReasoningDelta),
    st.builds(
        ToolCallDelta,
        st.integers(0, 1), st.sampled_from(["", "c"]), st.just(""), st.text(max_size=2),
    ),
    st.just(STATE),
)  # fmt: skip
Step = tuple[str, object]


@st.composite
def tasks(draw: st.DrawFn) -> list[Step]:
    """A task by the grammar: attempts with deltas, retractions between, and pauses anywhere."""
    steps: list[Step] = [("announce", ASSESSED)]
    for attempt in range(1, draw(st.integers(1, 3)) + 1):
        if attempt > 1:
            if draw(st.booleans()):
                steps.append(("announce", Retracted(attempt - 1, FailureClass.OUTAGE, "")))
            steps.append(("announce", draw(st.sampled_from([ESCALATED, WAITING]))))
        steps.append(("announce", selected(attempt)))
        for deltas in draw(st.lists(st.lists(DELTAS, max_size=3), max_size=6)):
            steps.append(("deliver", (attempt, tuple(deltas))))
            steps += [("pause", None)] * draw(st.integers(0, 2))
    ending = st.sampled_from([finished("x"), failed(ErrorReason.ALL_MODELS_FAILED)])
    return [*steps, ("end", draw(ending))]


async def play(steps: list[Step], *, whole: bool, turns: int, flush_s: float) -> list[list[Event]]:
    """Play a task to an outbox, with a writer beside it; answer the messages."""
    box = outbox(whole=whole, flush_s=flush_s)
    messages: list[list[Event]] = []

    async def write() -> None:
        while box.outcome is None:
            messages.append(list((await box.take()).events))
            for _ in range(turns):
                await asyncio.sleep(0)

    writer = asyncio.ensure_future(write())
    does: dict[str, Callable[..., None]] = {"announce": box.announce, "end": box.end}
    for kind, what in steps:
        if kind == "pause":
            await asyncio.sleep(0)
        elif kind == "deliver":
            assert isinstance(what, tuple)
            box.deliver(*what)
            await box.writable()
        else:
            does[kind](what)
    await asyncio.wait_for(writer, 2)
    return messages


def content(delta: Delta) -> tuple[str, str]:
    """What of a delta must arrive: its kind, and its text with a mark where a new call begins."""
    match delta:
        case TextDelta(text=text):
            return "text", text
        case ReasoningDelta(text=text):
            return "reasoning", text
        case ToolCallDelta(slot=slot, id=call_id, arguments=text):
            return f"tool_call{slot}", f"<{call_id}>{text}" if call_id else text
        case _:
            return "provider_state", "s"


def wire_content(event: Event) -> tuple[str, str]:
    delta = event.delta
    match delta.WhichOneof("kind"):
        case "text":
            return "text", delta.text
        case "reasoning":
            return "reasoning", delta.reasoning
        case "tool_call":
            call = delta.tool_call
            text = call.arguments_json_fragment
            return f"tool_call{call.index}", f"<{call.id}>{text}" if call.id else text
        case _:
            return "provider_state", "s"


def runs(parts: list[tuple[object, str]]) -> list[tuple[object, str]]:
    """Join neighbours of one kind, so that any joining of the same stream looks the same."""
    joined: list[tuple[object, str]] = []
    for kind, text in parts:
        if joined and joined[-1][0] == kind and text:
            joined[-1] = (kind, joined[-1][1] + text)
        elif text:
            joined.append((kind, text))
    return joined


@given(tasks(), st.sampled_from([0, 5]), st.sampled_from([0.0, 0.002]))
def test_every_task_arrives_in_order_numbered_and_whole(
    steps: list[Step],
    turns: int,
    flush_s: float,
) -> None:
    messages = asyncio.run(play(steps, whole=False, turns=turns, flush_s=flush_s))
    events = [event for message in messages for event in message]
    said: list[tuple[object, str]] = []
    for kind, what in steps:
        if kind == "deliver":
            assert isinstance(what, tuple)
            said += [((what[0], content(d)[0]), content(d)[1]) for d in what[1]]
        elif kind != "pause":
            said.append((type(what).__name__.lower(), "fact"))
    told: list[tuple[object, str]] = [
        ((e.delta.attempt, wire_content(e)[0]), wire_content(e)[1])
        if e.WhichOneof("kind") == "delta"
        else (str(e.WhichOneof("kind")), "fact")
        for e in events
    ]

    assert all(messages)
    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert runs(told) == runs(said)
    assert [e.WhichOneof("kind") in ("finished", "failed") for e in events].index(True) == (
        len(events) - 1
    )
    for message in messages:
        for one, next_one in pairwise(message):
            assert not _joinable(one, next_one)


def _joinable(one: Event, other: Event) -> bool:
    """Two text or reasoning deltas of one attempt side by side should have been one."""
    kinds = one.delta.WhichOneof("kind"), other.delta.WhichOneof("kind")
    return one.delta.attempt == other.delta.attempt and kinds in (
        ("text", "text"), ("reasoning", "reasoning"),
    )  # fmt: skip


@given(tasks(), st.sampled_from([0, 5]))
def test_whole_delivery_never_sends_deltas(
    steps: list[Step],
    turns: int,
) -> None:
    messages = asyncio.run(play(steps, whole=True, turns=turns, flush_s=0))
    events = [event for message in messages for event in message]
    kinds = [event.WhichOneof("kind") for event in events]

    assert [e.sequence for e in events] == list(range(1, len(events) + 1))
    assert "delta" not in kinds
    assert "retracted" not in kinds
    assert kinds[-1] in ("finished", "failed")
