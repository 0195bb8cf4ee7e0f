"""Rows U: what a provider's HTTP and its stream may do, one script a row, through the real server.

Each fault is played on the first model. The caller must be answered by the second, whole and
unspliced; the books must hold nothing in the end, and show what the fault may have cost.
"""

import asyncio
import gzip
from dataclasses import dataclass
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
    silent,
    streams,
    upstream,
    usage,
)
from tests.providers.raw_server import CHUNKED, Peer, Script


@dataclass(frozen=True, slots=True)
class Fate:
    """What must become of the first attempt.

    Attributes:
        failure: its class.
        reason: why the layer changed.
        basis: what its settlement rests on, unless something was shown, which is counted then.
            RESERVED stays held, and is booked in full when the doubt is over.
        is_outage: the circuit counts it.
    """

    failure: str
    reason: str
    basis: str = "RESERVED"
    is_outage: bool = True


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table, or a form of it.

    Attributes:
        row: of the table.
        name: tells it from others of its row.
        play: what the provider does with a request.
        detail: stands in the record of the attempt.
        shown: what a caller is shown of it before it breaks.
        fate: what must come of it.
        timeouts: of the strategy.
        dialect: that it is spoken in.
    """

    row: str
    name: str
    play: Script
    detail: str = ""
    shown: str = ""
    fate: Fate = Fate("PROTOCOL", "OUTAGE")
    timeouts: str = ""
    dialect: str = "openai"

    @property
    def basis(self) -> str:
        return "ESTIMATED" if self.shown else self.fate.basis


async def mute(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def too_long_a_length(peer: Peer) -> None:
    await peer.request()
    body = body_of("Once")
    await peer.send(b"HTTP/1.1 200 OK\r\n" + EVENTS + b"Content-Length: 9999\r\n\r\n" + body[:20])


async def too_short_a_length(peer: Peer) -> None:
    await peer.request()
    await peer.send(
        b"HTTP/1.1 200 OK\r\n" + EVENTS + b"Content-Length: 9\r\n\r\n" + body_of("Once")
    )


async def endless_news(peer: Peer) -> None:
    await peer.request()
    while True:
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" * 100)
        await asyncio.sleep(0.01)


async def two_lengths(peer: Peer) -> None:
    await peer.request()
    lengths = b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"
    await peer.send(b"HTTP/1.1 200 OK\r\n" + EVENTS + lengths + b"\r\n0\r\n\r\n")


def endless(data: bytes) -> Script:
    """Send 100 MB of one event, or as much of it as is taken."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(100_000_000 // len(data)):
            await peer.chunk(data)

    return play


def frame(data: str) -> Script:
    return streams(b"data: " + data.encode() + b"\n\n", END + usage() + DONE)


def error(**fields: str) -> dict[str, object]:
    return {"error": {"message": "made-up", **fields}}


def with_headers(headers: bytes, status: str = "200 OK", body: bytes = b"") -> Script:
    return answers(body or body_of("Once"), headers=EVENTS + headers, status=status)


SLOW = "first_token: 300ms"
POOR = event(error(code="insufficient_quota"))
REDIRECTS = ("301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent")
PAGE = b"<!DOCTYPE html><title>Log in</title>"
WHOLE = '{"choices":[{"index":0,"delta":{"content":"Once "}%s}]%s}'
MESSAGE = event({"type": "message_start", "message": {"model": "model-1"}}) + event(
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Once "}}
)
GENERATED = event({"candidates": [{"content": {"parts": [{"text": "Once "}]}}]})
STALLED = Fate("TIMEOUT", "TIMEOUT")
NOTHING_DUE = ""
MONEY = Fate("BALANCE", "CAP", NOTHING_DUE, is_outage=False)
ELSEWHERE = Fate("FORBIDDEN", "OUTAGE", NOTHING_DUE, is_outage=False)

FAULTS = (
    Fault("U3", "no answer", mute, timeouts=SLOW, fate=STALLED),
    Fault("U4", "headers, then silence", streams(then=silent), timeouts=SLOW, fate=STALLED),
    Fault("U4", "comments", dripping(b"", b": ping\n\n", 0.02), timeouts=SLOW, fate=STALLED),
    Fault("U4", "empty lines", dripping(b"", b"\n", 0.02), timeouts=SLOW, fate=STALLED),
    Fault("U5", "stall", streams(WORD, then=silent), shown="Once ", timeouts="idle: 300ms",
          detail="stalled", fate=STALLED),
    Fault("U6", "a byte of an event", dripping(b"data: ", b"x", 0.02), timeouts=SLOW, fate=STALLED),
    Fault("U6", "a word at a time", dripping(WORD, choice(content="more "), 0.05), shown="Once ",
          timeouts="total: 1500ms", detail="not done after", fate=STALLED),
    Fault("U7", "reset", streams(WORD, then=Peer.reset), shown="Once ", detail="cut off"),
    Fault("U8", "openai", streams(WORD), shown="Once ", detail="before its end"),
    Fault("U8", "anthropic", streams(MESSAGE), dialect="anthropic", shown="Once ",
          detail="before its end"),
    Fault("U8", "gemini", streams(GENERATED), dialect="gemini", shown="Once ",
          detail="before its end"),
    Fault("U9", "after a word", streams(WORD, DONE), shown="Once ", detail="finish reason"),
    Fault("U9", "at once", streams(DONE), detail="finish reason"),
    Fault("U10", "at once", streams(POOR, DONE), fate=MONEY),
    Fault("U10", "after a word", streams(WORD, POOR, DONE), shown="Once ", fate=MONEY),
    Fault("U11", "no balance", answers(POOR[6:]),
          fate=MONEY),
    Fault("U12", "page", answers(PAGE, headers=b"Content-Type: text/html\r\n"),
          detail="not_an_answer"),
    Fault("U12", "page said to be a stream", answers(PAGE), detail="not_an_answer"),
    Fault("U13", "empty", answers(b""), detail="empty_response"),
    Fault("U13", "comments", streams(b": one\n\n", b": two\n\n"), detail="empty_response"),
    Fault("U14", "at once", endless(b"x" * 65_536), detail="line_too_long"),
    Fault("U14", "after a word", streams(WORD, b"data: ", b"x" * (2 << 20)), shown="Once ",
          detail="line_too_long"),
    Fault("U15", "a million lines", endless(b"data: x\n" * 8_192), detail="event_too_long"),
    Fault("U15", "long lines", endless(b"data: " + b"x" * 65_536 + b"\n"),
          detail="event_too_long"),
    Fault("U18", "the finish", streams(WORD, END[:-1]), shown="Once ", detail="before its end"),
    Fault("U19", "at once", frame("{no json"), detail="invalid_json"),
    Fault("U19", "after a word", streams(WORD, event(b"{no json"), END, DONE), shown="Once ",
          detail="invalid_json"),
    Fault("U20", "deep", frame(WHOLE % ("", ',"x":' + "[" * 100_000 + "]" * 100_000)),
          detail="invalid_json"),
    Fault("U20", "long integer", frame(WHOLE % (',"index":' + "9" * 100_000, "")),
          detail="invalid_json"),
    Fault("U20", "a key twice", frame(WHOLE % ("", ',"choices":[]')), detail="invalid_json"),
    Fault("U20", "a key twice within", frame(WHOLE % (',"delta":{}', "")), detail="invalid_json"),
    Fault("U20", "NaN", frame(WHOLE % ("", ',"x":NaN')), detail="invalid_json"),
    Fault("U21", "gzip", with_headers(b"Content-Encoding: gzip\r\n",
          body=gzip.compress(bytes(64 << 20))), detail="not HTTP as agreed"),
    Fault("U21", "nested", with_headers(b"Content-Encoding: gzip, gzip\r\n",
          body=gzip.compress(gzip.compress(body_of("Once")))), detail="not HTTP as agreed"),
    Fault("U21", "brotli", with_headers(b"Content-Encoding: br\r\n", body=b"\x8b\x02\x80abc\x03"),
          detail="not HTTP as agreed"),
    Fault("U22", "length too long", too_long_a_length, detail="cut off"),
    Fault("U22", "length too short", too_short_a_length, detail="not HTTP as agreed"),
    Fault("U22", "two lengths", two_lengths, detail="not HTTP as agreed"),
    Fault("U23", "10,000 headers", with_headers(b"X: a\r\n" * 10_000),
          detail="not HTTP as agreed"),
    Fault("U23", "1 MB header", with_headers(b"X-Long: " + b"a" * 1_000_000 + b"\r\n"),
          detail="not HTTP as agreed"),
    Fault("U25", "endless", endless_news, timeouts=SLOW, fate=STALLED),
    *(Fault("U24", status[:3], with_headers(b"Location: /elsewhere\r\n", status),
            fate=ELSEWHERE, detail="see `base_url`") for status in REDIRECTS),
)  # fmt: skip


def cases(*, shown: bool = False) -> list[ParameterSet]:
    return [
        pytest.param(f, id=f"{f.row} {f.name}", marks=pytest.mark.fault(f.row))
        for f in FAULTS
        if f.shown or not shown
    ]


@pytest.mark.parametrize("fault", cases())
async def test_a_fault_is_answered_by_the_next_model(tmp_path: Path, fault: Fault) -> None:
    async with upstream(
        tmp_path, fault.play, dialect=fault.dialect, timeouts=fault.timeouts
    ) as world:
        answer = await world.complete()
        first, second = answer.attempts
        held = world.cap.held
        booked = await world.settled()

        assert answer.text == HEALTHY
        assert (first.status, first.failure_class) == ("FAILED", fault.fate.failure)
        assert fault.detail in first.detail
        assert (second.status, second.model.model) == ("OK", "model-2")
        assert [(e.from_layer, e.to_layer, e.reason) for e in answer.escalations] == [
            ("first", "second", fault.fate.reason)
        ]
        assert len(world.faulty.bodies) == 1, "the prompt goes out once"
        assert world.is_open == fault.fate.is_outage
        assert first.basis == fault.basis
        assert booked.spent == first.list_nanos
        assert (first.list_nanos > 0) == (fault.basis != NOTHING_DUE)
        assert held == (booked.spent if fault.basis == "RESERVED" else 0)


@pytest.mark.parametrize("fault", cases(shown=True))
async def test_what_was_shown_is_taken_back_or_the_stream_fails(
    tmp_path: Path, fault: Fault
) -> None:
    async with upstream(
        tmp_path, fault.play, dialect=fault.dialect, timeouts=fault.timeouts, failures=2
    ) as world:
        shown = ""
        async with world.stream(may_restart=True) as stream:
            async for told in stream:
                if isinstance(told, escalade.Retracted):
                    assert shown.startswith(fault.shown)
                    assert told.reason == fault.fate.failure
                    shown = ""
                elif isinstance(told, escalade.TextDelta):
                    shown += told.text
            answer = await stream.answer()
        assert shown == answer.text == HEALTHY, "nothing of the first is spliced into the second"
        assert answer.attempts[0].status == "RETRACTED"
        partial = answer.attempts[0].list_nanos
        assert 0 < partial == world.cap.spent

        if fault.fate.is_outage:  # else it is set aside, and not asked again
            with pytest.raises(escalade.Interrupted) as caught:
                async with world.stream(may_restart=False) as stream:
                    await stream.answer()
            (only,) = caught.value.attempts
            assert only.failure_class == fault.fate.failure
            assert (await world.quiet()).spent == partial + only.list_nanos
            assert world.is_open
        assert (await world.quiet()).held == 0
