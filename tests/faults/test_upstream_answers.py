"""Rows U in which the answer survives: odd bytes, odd usage, odd tool calls, another model.

The first model's answer must come through the real server as it was meant, be booked as the row
says, and what a person should know of it must be told.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

import escalade
from tests.faults.upstream import (
    DONE,
    END,
    EVENTS,
    HEALTHY,
    WORD,
    answers,
    body_of,
    choice,
    dripping,
    event,
    streams,
    upstream,
    usage,
)
from tests.providers.raw_server import CHUNKED, Peer, Script

PRICE_IN, PRICE_OUT = 1_000, 2_000
"""Nano-dollars per token of the first model."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and what must come of it.

    Attributes:
        row: of the table.
        name: tells it from others of its row.
        play: what the provider does with a request.
        text: that the caller gets.
        tokens: input and output that are booked as reported; None: they are counted here.
        alerts: kinds told.
        odd: what the log says was odd.
    """

    row: str
    name: str
    play: Script
    text: str = "Once upon"
    tokens: tuple[int, int] | None = (7, 5)
    alerts: tuple[str, ...] = ()
    odd: Mapping[str, object] = field(default_factory=dict)


def framed(text: str, end: str) -> bytes:
    """An answer whose lines end otherwise."""
    return body_of(text).replace(b"\n", end.encode())


def byte_by_byte(body: bytes) -> Script:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for at in range(len(body)):
            await peer.chunk(body[at : at + 1])
            await asyncio.sleep(0)
        await peer.send(b"0\r\n\r\n")

    return play


def used(told: object) -> Script:
    """An answer with this for its usage."""
    return streams(ONCE, END, event({"choices": [], "usage": told}), DONE)


def tokens(inputs: object, outputs: object) -> dict[str, object]:
    return {"prompt_tokens": inputs, "completion_tokens": outputs}


async def early_news(peer: Peer) -> None:
    await peer.request()
    for status in (b"100 Continue", b"103 Early Hints"):
        await peer.send((b"HTTP/1.1 " + status + b"\r\nX: y\r\n\r\n") * 20)
    await peer.answer(body_of("Once upon"), headers=EVENTS)


async def trailers(peer: Peer) -> None:
    await peer.request()
    await peer.send(CHUNKED)
    await peer.chunk(body_of("Once upon"))
    await peer.send(b"0\r\nX-Trailer: 1\r\n\r\n")


ONCE = choice(content="Once upon")
SPLIT = body_of("Grüße 🌍").replace(b"\\u00fc", "ü".encode()).replace(b"\\u00df", "ß".encode())
SPLIT = SPLIT.replace(b"\\ud83c\\udf0d", "🌍".encode())
ODD_LINES = (
    b"\xef\xbb\xbfid: 1\nretry: 10\nevent: x\n" + ONCE.replace(b"data: ", b"data:") + b": hi\n"
    + b"\n".join(b"data: " + part for part in (b'{"choices":', b"[]}")) + b"\n\n"
    + END + usage() + DONE
)  # fmt: skip
SEPARATORS = "Once\u2028upon\u0085a\u2029time"
NEWS = (
    event({"object": "x.new", "novel": {"deep": [1]}}),
    b"event: brand.new\n" + event({"hello": 1}),
    b"novel: field\n\n",
)
NOT_BELIEVED = {"replaced": 0, "unknown": 0, "unbelievable": True}
WARNED = ("PROVIDER",)

ANSWERS = (
    Answer("U16", "split anywhere", byte_by_byte(SPLIT), "Grüße 🌍"),
    Answer("U16", "invalid", streams(ONCE.replace(b"Once upon", b"Once\xffupon"),
           END + usage() + DONE), "Once\ufffdupon",
           odd={"replaced": 1, "unknown": 0, "unbelievable": False}),
    Answer("U17", "CRLF", answers(framed("Once upon", "\r\n"))),
    Answer("U17", "CR", answers(framed("Once upon", "\r"))),
    Answer("U17", "CRLF at the edge", byte_by_byte(framed("Once upon", "\r\n"))),
    Answer("U17", "mixed", streams(ONCE.replace(b"\n", b"\r\n"), END.replace(b"\n", b"\r"),
           usage() + DONE)),
    Answer("U17", "odd lines", answers(ODD_LINES)),
    Answer("U17", "separators", answers(body_of("").replace(b'"content": ""',
           b'"content": "' + SEPARATORS.encode() + b'"')), SEPARATORS),
    Answer("U25", "news before", early_news),
    Answer("U25", "trailers", trailers),
    Answer("U26", "missing", streams(ONCE, END, DONE), tokens=None),
    Answer("U26", "null", used(None), tokens=None),
    Answer("U26", "zero", used(tokens(0, 0)), tokens=(0, 0)),
    Answer("U26", "negative", used(tokens(-1, 5)), tokens=None, alerts=WARNED, odd=NOT_BELIEVED),
    Answer("U26", "huge", used(tokens(7, 10**9)), tokens=None, alerts=WARNED, odd=NOT_BELIEVED),
    Answer("U26", "above what was granted", used(tokens(7, 40_000)), tokens=None, alerts=WARNED,
           odd=NOT_BELIEVED),
    Answer("U26", "no integer", used(tokens(7, 10**400)), tokens=None, alerts=WARNED,
           odd=NOT_BELIEVED),
    Answer("U26", "late", streams(ONCE, END, event({"choices": []}), usage(), DONE)),
    Answer("U26", "twice", streams(ONCE, usage(1, 1), END, usage(), DONE)),
    Answer("U28", "chunks without choices", streams(event({"choices": [], "model": "model-1"}),
           ONCE, event({"choices": []}), END, usage(), DONE)),
    Answer("U28", "a second choice", streams(ONCE, ONCE.replace(b'"index": 0', b'"index": 1'), END,
           usage(), DONE)),
    Answer("U29", "unknown", streams(*NEWS, ONCE, END, usage(), DONE),
           odd={"replaced": 0, "unknown": 3, "unbelievable": False}),
    Answer("U30", "another edition", answers(body_of("Once upon").replace(b"model-1",
           b"acme/Model-1-2026-08-06"))),
)  # fmt: skip


def cases() -> list[ParameterSet]:
    return [
        pytest.param(a, id=f"{a.row} {a.name}", marks=pytest.mark.fault(a.row)) for a in ANSWERS
    ]


@pytest.mark.parametrize("told", cases())
async def test_an_odd_answer_is_read_as_it_is_meant(tmp_path: Path, told: Answer) -> None:
    async with upstream(tmp_path, told.play) as world:
        answer = await world.complete()
        (only,) = answer.attempts
        booked = await world.quiet()

    lines = world.logged("task.odd_answer")  # all of them: the log is closed by now
    assert answer.text == told.text
    assert (only.status, answer.finish_reason) == ("OK", "STOP")
    assert world.alerts() == list(told.alerts)
    assert [{key: line[key] for key in told.odd} for line in lines] == (
        [told.odd] if told.odd else []
    )
    if told.tokens is None:
        assert only.basis == "ESTIMATED"
        assert only.list_nanos > 0
    else:
        inputs, outputs = told.tokens
        assert only.basis == "REPORTED"
        assert (only.usage.input_tokens, only.usage.output_tokens) == told.tokens
        assert only.list_nanos == inputs * PRICE_IN + outputs * PRICE_OUT
    assert booked.spent == only.list_nanos
    assert not world.is_open


# ------------------------------------------------------------------------------ tool calls (U27)


def call(index: int, arguments: str, **more: str) -> bytes:
    """A piece of a tool call."""
    function = {"arguments": arguments, **{k: v for k, v in more.items() if k == "name"}}
    told: dict[str, object] = {"index": index, "function": function}
    if "id" in more:
        told["id"] = more["id"]
    return choice(tool_calls=[told])


CALLS = {
    "gaps in the index": (
        (call(0, "{}", id="a", name="f"), call(3, "{}", id="b", name="g")),
        [("a", "f", "{}"), ("b", "g", "{}")],
    ),
    "id and name once": (
        (call(0, '{"x"', id="a", name="f"), call(0, ":1}")),
        [("a", "f", '{"x":1}')],
    ),
    "id and name repeated": (
        (call(0, '{"x"', id="a", name="f"), call(0, ":1}", id="a", name="f")),
        [("a", "f", '{"x":1}')],
    ),
    "split within an escape": (
        (call(0, '{"x":"\\', id="a", name="f"), call(0, 'u00e9"}')),
        [("a", "f", '{"x":"\\u00e9"}')],
    ),
    "interleaved": (
        (
            call(0, "[1", id="a", name="f"),
            call(1, "[2", id="b", name="g"),
            call(0, "]"),
            call(1, "]"),
        ),
        [("a", "f", "[1]"), ("b", "g", "[2]")],
    ),
    "never mended": (
        (call(0, '{"x":', id="a", name="f"),),
        [("a", "f", '{"x":')],
    ),
}


@pytest.mark.fault("U27")
@pytest.mark.parametrize("name", CALLS)
async def test_tool_calls_are_put_together_and_never_mended(tmp_path: Path, name: str) -> None:
    pieces, expected = CALLS[name]
    play = streams(*pieces, choice(finish="tool_calls"), usage(), DONE)
    async with upstream(tmp_path, play) as world:
        answer = await world.complete(tools=[escalade.Tool("f"), escalade.Tool("g")])

    assert [(c.id, c.name, c.arguments_json) for c in answer.tool_calls] == expected
    assert answer.finish_reason == "TOOL_CALLS"
    if name == "never mended":
        with pytest.raises(ValueError, match="Expecting value"):
            answer.tool_calls[0].arguments()


@pytest.mark.fault("U27")
@pytest.mark.parametrize("name", CALLS)
async def test_a_gate_may_ask_for_tool_calls_that_are_valid(tmp_path: Path, name: str) -> None:
    """What fails it stands in as it came: no gate mends anything, either (R21)."""
    pieces, expected = CALLS[name]
    play = streams(*pieces, choice(finish="tool_calls"), usage(), DONE)
    demands = escalade.QualityDemands(
        gates=["tool_call_invalid"], max_escalations=0, on_unmet="deliver"
    )
    async with upstream(tmp_path, play) as world:
        tools = [escalade.Tool("f"), escalade.Tool("g")]
        answer = await world.complete(tools=tools, quality=demands)

    assert [(c.id, c.name, c.arguments_json) for c in answer.tool_calls] == expected
    poor = name in {"interleaved", "never mended"}  # lists, and half an object
    assert answer.quality == ("UNMET" if poor else "MET")
    assert [a.gate for a in answer.attempts] == ["TOOL_CALL_INVALID" if poor else ""]


# --------------------------------------------------------------------------- another model (U30)


@pytest.mark.fault("U30")
async def test_another_model_is_recorded_told_and_booked_at_the_dearer_price(
    tmp_path: Path,
) -> None:
    play = answers(body_of("Once upon").replace(b"model-1", b"model-9-2026-08-06"))
    async with upstream(tmp_path, play) as world:
        answer = await world.complete()
        again = await world.complete()
        booked = await world.quiet()

    (only,) = answer.attempts
    assert only.reported_model == "model-9-2026-08-06"
    assert only.list_nanos == 10 * (7 * PRICE_IN + 5 * PRICE_OUT), "model-9 is ten times as dear"
    assert booked.spent == answer.list_nanos + again.list_nanos
    assert world.alerts() == ["PROVIDER"], "once an hour"
    (line,) = world.logged("task.alert")
    assert "model-9" in str(line["detail"])


@pytest.mark.fault("U22")
async def test_a_connection_with_more_than_it_should_hold_is_not_used_again(tmp_path: Path) -> None:
    async def too_much(peer: Peer) -> None:
        while await peer.request():
            body = body_of("Once upon")
            length = b"Content-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
            await peer.send(b"HTTP/1.1 200 OK\r\n" + length + body)
            await asyncio.sleep(0.05)
            await peer.answer(body_of("Stolen"))

    async with upstream(tmp_path, too_much) as world:
        texts = []
        for _ in range(3):
            texts.append((await world.complete()).text)
            await asyncio.sleep(0.2)

        assert texts == ["Once upon"] * 3
        assert world.faulty.connections == 3


@pytest.mark.fault("U6")
async def test_a_drip_ends_with_the_callers_deadline(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def drip(peer: Peer) -> None:
        try:
            await dripping(WORD, choice(content="more "), 0.05)(peer)
        finally:
            left.set()

    async with upstream(tmp_path, drip) as world:
        with pytest.raises(escalade.EscaladeError) as caught:
            await world.client.complete("Why?", max_output_tokens=64, timeout=3)
        await asyncio.wait_for(left.wait(), 20)
        booked = await world.quiet()

    assert isinstance(caught.value, TimeoutError) or caught.value.reason == "DEADLINE_REACHED"
    assert booked.spent > 0
    assert world.healthy.heads == []


@pytest.mark.fault("U24")
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
async def test_a_redirect_leads_nowhere_and_is_told(tmp_path: Path, status: str) -> None:
    async def elsewhere(peer: Peer) -> None:
        await peer.request()
        location = world.healthy.url.encode()
        await peer.answer(b"", status=status, headers=b"Location: %b\r\n" % location)

    async with upstream(tmp_path, elsewhere) as world:
        answer = await world.complete()

        assert answer.text == HEALTHY
        assert len(world.healthy.heads) == 1, "asked as the second model alone"
        assert b"model-2" in world.healthy.bodies[0]
        assert world.alerts() == ["AUTH"]
    assert len(world.logged("task.alert")) == 1
