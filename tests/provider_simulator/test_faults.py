"""Each fault as a client sees it, streamed and whole; when faults strike; outages."""

import asyncio
import json
import zlib
from urllib.parse import urlsplit

import pytest

from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    Scenario,
    ScenarioError,
    Simulator,
)
from escalade_server.provider_simulator.odd_wire import ODD_JSON
from escalade_server.provider_simulator.scenario import ProviderScript
from escalade_server.provider_simulator.vendor_errors import BY_VENDOR, HTTP_KINDS, error_of
from escalade_server.provider_simulator.vendors import VENDORS
from tests.provider_simulator.calls import (
    KEY,
    PATIENT_S,
    QUIET_S,
    Caller,
    Reply,
    faulty,
    one_model,
    playing,
    settled,
)

K = FaultKind
USAGE = {"include_usage": True}
TEXT = "one two three four "

UNANSWERED_ENDS = [
    (K.RESET, 0, "reset"),
    (K.SILENCE, 0, "silent"),
    (K.HEADERS_THEN_SILENCE, 200, "silent"),
    (K.JSON_ERROR_200, 200, "eof"),
    (K.HTML_200, 200, "eof"),
    (K.EMPTY_200, 200, "eof"),
]
BOMBS = [K.DEEP_JSON, K.HUGE_NUMBER]
ENDLESS = [(K.ENDLESS_LINE, 1), (K.HUGE_EVENT, 10_000)]
HEADS = [K.LENGTH_TOO_LONG, K.LENGTH_TOO_SHORT, K.LENGTH_AND_CHUNKED, K.HEADER_FLOOD]
BROKEN_ENDS = [
    (K.STALL, "silent"),
    (K.CUT, "reset"),
    (K.HANG_UP, "truncated"),
    (K.BARE_END, "eof"),
    (K.ERROR_FRAME, "eof"),
]
TOLD_WHOLE = [
    K.KEEP_ALIVE_COMMENTS,
    K.CRLF_FRAMES,
    K.SPLIT_BYTES,
    K.MISSING_USAGE,
    K.ZERO_USAGE,
    K.NEGATIVE_USAGE,
    K.HUGE_USAGE,
    K.OTHER_MODEL,
    K.NO_DONE,
    K.NO_FINISH_REASON,
]
ELSEWHERE = [
    K.ONLY_COMMENTS,
    K.GARBAGE_JSON,
    K.GZIP_BOMB,
    K.SLOW_DRIP,
    K.INTERLEAVED_CALLS,
    K.PROMPT_FILTERED,
    K.MALFORMED_CALL,
    K.ACCOUNT_LIMITED,
    K.WINDOW_EXCEEDED,
    K.CONTENT_FILTER,
    K.REFUSAL,
    K.CUT_SHORT,
    K.BYTE_ORDER_MARK,
]


def patience(end: str) -> float:
    return QUIET_S if end == "silent" else PATIENT_S


def test_every_kind_has_its_test() -> None:
    tested = {kind for kind, *_ in [*UNANSWERED_ENDS, *BROKEN_ENDS, *ENDLESS]}

    assert tested | {*TOLD_WHOLE, *ELSEWHERE, *BOMBS, *HEADS} | HTTP_KINDS == set(FaultKind)


@pytest.mark.parametrize("kind", sorted(HTTP_KINDS))
async def test_refusals_refuse(kind: FaultKind) -> None:
    vendor = next(name for name in BY_VENDOR if error_of(name, kind))
    row = error_of(vendor, kind)
    async with playing(faulty(kind, vendor)) as caller:
        streamed = await caller.home(vendor, stream=True)
        whole = await caller.home(vendor, stream=False)

    assert row is not None
    assert streamed.status == whole.status == row.status >= 300
    assert streamed.headers["Content-Type"] == row.content_type
    assert streamed.body == whole.body or "retry" in row.body or "request_id" in row.body
    name = VENDORS[vendor].request_id_header or ""
    ids = [reply.headers.get(name) for reply in (streamed, whole)]
    assert vendor == "google" or ids[0] != ids[1]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("kind", "status", "end"), UNANSWERED_ENDS)
async def test_without_an_answer(kind: FaultKind, status: int, end: str, *, stream: bool) -> None:
    async with playing(faulty(kind)) as caller:
        reply = await caller.chat(stream=stream, quiet_s=patience(end))

        assert (reply.status, reply.end) == (status, end)
        assert TEXT.encode() not in reply.body
        counted = caller.simulator.ledger().of("openai", "m")
        assert (counted.requests_received, counted.requests_billed) == (1, 0)


async def test_bodies_that_are_no_stream() -> None:
    async with playing(faulty(K.JSON_ERROR_200)) as caller:
        told = await caller.chat(stream=True)
    async with playing(faulty(K.HTML_200)) as caller:
        page = await caller.chat(stream=True)
    async with playing(faulty(K.EMPTY_200)) as caller:
        empty = await caller.chat(stream=True)

    assert told.headers["Content-Type"] == "application/json"
    assert told.json["error"]["code"] == "server_is_overloaded"
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.body.startswith(b"<!DOCTYPE html>")
    assert (empty.headers["Content-Type"], empty.body) == ("text/event-stream", b"")


async def test_comments_are_all_there_is() -> None:
    async with playing(faulty(K.ONLY_COMMENTS, "openrouter")) as caller:
        reply = await caller.chat("openrouter", stream=True, bytes_max=100)

    assert reply.end == "endless"
    assert set(reply.body.split(b"\n\n")) == {b": OPENROUTER PROCESSING", b""}


@pytest.mark.parametrize(("kind", "end"), BROKEN_ENDS)
async def test_streams_break_after_so_many_pieces(kind: FaultKind, end: str) -> None:
    async with playing(faulty(kind, after_chunks=2)) as caller:
        reply = await caller.chat(stream=True, stream_options=USAGE, quiet_s=patience(end))

        assert (reply.status, reply.end) == (200, end)
        assert reply.text == "one two "
        assert "stop" not in reply.finish
        counted = caller.simulator.ledger
        await settled(lambda: counted().of("openai", "m").requests_billed)
        assert counted().of("openai", "m").output_tokens == 2
        assert counted().of("openai", "m").requests_finished == 0


@pytest.mark.parametrize(("kind", "end"), BROKEN_ENDS[:3])
async def test_whole_answers_break_in_their_middle(kind: FaultKind, end: str) -> None:
    async with playing(faulty(kind)) as caller:
        reply = await caller.chat(quiet_s=patience(end))

    assert reply.end == end
    assert reply.body.startswith(b'{"id":')
    assert not reply.body.endswith(b"}")


@pytest.mark.parametrize(
    ("provider", "finish"), [("openai", []), ("openrouter", ["error"]), ("nano-gpt", ["error"])]
)
async def test_an_error_frame_is_followed_by_done(provider: str, finish: list[str]) -> None:
    async with playing(faulty(K.ERROR_FRAME, provider)) as caller:
        reply = await caller.chat(provider, stream=True)
        whole = (await caller.chat(provider)).json

    assert reply.frames[-1] == "[DONE]"
    assert reply.chunks[-1]["error"]["code"] in {"server_error", 502, "service_unavailable"}
    assert reply.finish == finish
    assert whole["choices"][0]["finish_reason"] == "error"


async def test_garbage_stands_between_good_frames() -> None:
    async with playing(faulty(K.GARBAGE_JSON)) as caller:
        reply = await caller.chat(stream=True)
        whole = await caller.chat()

    with pytest.raises(json.JSONDecodeError):
        assert reply.chunks
    assert reply.frames[-1] == "[DONE]"
    with pytest.raises(json.JSONDecodeError):
        assert whole.json


@pytest.mark.parametrize("kind", BOMBS)
async def test_bombs_stand_between_good_frames_or_for_the_answer(kind: FaultKind) -> None:
    async with playing(faulty(kind)) as caller:
        reply = await caller.chat(stream=True, bytes_max=3_000_000)
        whole = await caller.chat(bytes_max=3_000_000)

    bomb = ODD_JSON[kind]
    assert (reply.body.count(b"data: " + bomb + b"\n\n"), whole.body) == (1, bomb)
    assert reply.frames[-1] == "[DONE]"
    assert bomb.count(b"[") == 100_000 or bomb.count(b"9") == 1_000_000


async def test_a_small_body_that_unpacks_to_256_mebibytes() -> None:
    async with playing(faulty(K.GZIP_BOMB)) as caller:
        url = caller.simulator.provider_url("openai") + "/chat/completions"
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
        async with caller.session.post(
            url, json=body, headers=KEY, auto_decompress=False
        ) as response:
            packed = await response.read()
            encoding = response.headers["Content-Encoding"]

    unpacker = zlib.decompressobj(31)
    size, rest = 0, packed
    while rest:
        size += len(unpacker.decompress(rest, 4_194_304))
        rest = unpacker.unconsumed_tail
    assert (encoding, size) == ("gzip", 268_435_456)
    assert len(packed) < 300_000


@pytest.mark.parametrize(("kind", "lines"), ENDLESS)
async def test_what_never_ends(
    kind: FaultKind, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with playing(faulty(kind)) as caller:
        reply = await caller.chat(stream=True, bytes_max=2_000_000)
        whole = await caller.chat(bytes_max=2_000_000)
        ledger = caller.simulator.ledger
        await settled(lambda: ledger().of("openai", "m").disconnects == 2)

    assert reply.end == whole.end == "endless"
    last = reply.body.split(b"\n\n")[-1]
    assert len(last) > 1_900_000
    assert last.count(b"data: ") >= lines
    assert caplog.records == [], "a connection that ends is no news"


async def test_an_outage_in_the_middle_of_a_write_is_no_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with playing(faulty(K.GZIP_BOMB)) as caller:
        # Only one time in four does the outage come between two writes, so it comes at many.
        for place in range(20):
            call = asyncio.create_task(caller.chat(stream=True, bytes_max=10**10))
            await settled(lambda: caller.simulator.providers["openai"].exchanges)
            await asyncio.sleep(0.0015 * place)
            caller.simulator.break_provider("openai")
            assert (await call).end in {"reset", "truncated"}
            caller.simulator.mend_provider("openai")
    assert caplog.records == []


async def test_a_slow_drip_is_alive_and_gets_nowhere() -> None:
    async with playing(faulty(K.SLOW_DRIP)) as caller:
        ledger = caller.simulator.ledger
        call = asyncio.create_task(caller.chat(stream=True))
        await settled(lambda: ledger().of("openai", "m").streams_open)
        done, _ = await asyncio.wait({call}, timeout=1)
        assert not done
        call.cancel()
        await settled(lambda: ledger().of("openai", "m").requests_billed)
        counted = ledger().of("openai", "m")

    assert (counted.disconnects, counted.requests_finished) == (1, 0)
    assert 1 <= counted.output_tokens < 5


async def raw_answer(caller: Caller) -> bytes:
    """All that comes over the socket, past any HTTP client."""
    address = urlsplit(caller.simulator.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
    head = "POST /openai/v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    found = await reader.read()
    writer.close()
    return found


@pytest.mark.parametrize("kind", HEADS)
async def test_heads_that_lie_or_never_end(kind: FaultKind) -> None:
    async with playing(faulty(kind)) as caller:
        head, _, body = (await raw_answer(caller)).partition(b"\r\n\r\n")
        counted = caller.simulator.ledger().of("openai", "m")

    fields = dict(line.split(": ") for line in head.decode().lower().split("\r\n")[1:])
    length = int(fields["content-length"])
    if kind is K.LENGTH_AND_CHUNKED:
        assert fields["transfer-encoding"] == "chunked"
        size, _, body = body.removesuffix(b"\r\n0\r\n\r\n").partition(b"\r\n")
        assert int(size, 16) == len(body)
    told = {K.LENGTH_TOO_LONG: len(body) + 1_000, K.LENGTH_TOO_SHORT: len(body) // 2}
    assert length == told.get(kind, len(body))
    assert len(fields) > 10_000 or kind is not K.HEADER_FLOOD
    assert json.loads(body)["choices"][0]["message"]["content"] == TEXT
    assert (counted.requests_finished, counted.output_tokens) == (1, 5)


async def test_a_stream_shorter_than_its_length_is_cut() -> None:
    async with playing(faulty(K.LENGTH_TOO_LONG)) as caller:
        reply = await caller.chat(stream=True)

    assert (reply.status, reply.end, reply.text) == (200, "truncated", TEXT)


def comparable(reply: Reply) -> tuple[str, list[str], bool]:
    return reply.text, reply.finish, reply.frames[-1] == "[DONE]"


@pytest.mark.parametrize("kind", TOLD_WHOLE)
async def test_odd_answers_are_whole(kind: FaultKind) -> None:
    async with playing(faulty(kind)) as caller:
        reply = await caller.chat(stream=True, stream_options=USAGE)
        whole = (await caller.chat()).json

        finish = [] if kind is K.NO_FINISH_REASON else ["stop"]
        assert comparable(reply) == (TEXT, finish, kind is not K.NO_DONE)
        assert whole["choices"][0]["message"]["content"] == TEXT
        counted = caller.simulator.ledger().of("openai", "m")
        assert (counted.requests_finished, counted.output_tokens) == (2, 10)


async def test_what_is_odd_about_them() -> None:
    async def told(kind: FaultKind) -> Reply:
        async with playing(faulty(kind)) as caller:
            return await caller.chat(stream=True, stream_options=USAGE)

    assert (await told(K.KEEP_ALIVE_COMMENTS)).body.startswith(b": keep-alive\n\n" * 3)
    crlf = (await told(K.CRLF_FRAMES)).body
    assert crlf.count(b"\n") == crlf.count(b"\r\n") > 0
    assert (await told(K.BYTE_ORDER_MARK)).body.startswith(b"\xef\xbb\xbfdata: ")
    assert not any(chunk["usage"] for chunk in (await told(K.MISSING_USAGE)).chunks)
    assert (await told(K.ZERO_USAGE)).chunks[-1]["usage"]["total_tokens"] == 0
    assert (await told(K.NEGATIVE_USAGE)).chunks[-1]["usage"]["completion_tokens"] == -5
    assert (await told(K.HUGE_USAGE)).chunks[-1]["usage"]["completion_tokens"] == 10**12
    assert (await told(K.OTHER_MODEL)).chunks[0]["model"] == "m-other"


async def test_answers_that_the_vendor_withholds() -> None:
    async with playing(faulty(K.CONTENT_FILTER, after_chunks=2)) as caller:
        filtered = await caller.chat(stream=True)
    async with playing(faulty(K.CUT_SHORT, "deepseek", after_chunks=3)) as caller:
        short = await caller.chat("deepseek", stream=True)
    async with playing(faulty(K.REFUSAL)) as caller:
        refused = (await caller.chat()).json["choices"][0]
        streamed = await caller.chat(stream=True)

    assert (filtered.text, filtered.finish) == ("one two ", ["content_filter"])
    assert (short.text, short.finish) == ("one two three ", ["insufficient_system_resource"])
    assert refused["message"]["content"] is None
    assert refused["message"]["refusal"] == "".join(streamed.of_deltas("refusal")) != ""


async def struck(simulator: Simulator, times: int) -> list[int]:
    async with playing(simulator) as caller:
        return [n for n in range(1, times + 1) if (await caller.chat()).status == 500]


def at_times(fault: Fault, *, seed: int = 0) -> Simulator:
    provider = ProviderScript(models={"m": ModelScript(faults=(fault,))})
    return Simulator(Scenario(providers={"openai": provider}, seed=seed))


async def test_faults_strike_by_number_rhythm_and_chance() -> None:
    kind = K.SERVER_ERROR

    assert await struck(at_times(Fault(kind=kind, on_requests=(2, 5))), 6) == [2, 5]
    assert await struck(at_times(Fault(kind=kind, every=3)), 9) == [3, 6, 9]
    by_chance = await struck(at_times(Fault(kind=kind, percent=50)), 40)
    assert 8 < len(by_chance) < 32
    assert by_chance == await struck(at_times(Fault(kind=kind, percent=50)), 40)
    assert by_chance != await struck(at_times(Fault(kind=kind, percent=50), seed=1), 40)


async def test_faults_strike_for_a_time() -> None:
    now = [1_000]
    fault = Fault(kind=K.SERVER_ERROR, from_ms=10, until_ms=20)
    provider = ProviderScript(models={"m": ModelScript()}, faults=(fault,))
    simulator = Simulator(Scenario(providers={"openai": provider}), now_ms=lambda: now[0])
    async with playing(simulator) as caller:
        found = []
        for now[0] in (1_009, 1_010, 1_019, 1_020):
            found.append((await caller.chat()).status)

    assert found == [200, 500, 500, 200]


async def test_an_outage_refuses_everything_until_it_is_mended() -> None:
    async with playing(one_model(ModelScript())) as caller:
        caller.simulator.break_provider("openai")
        assert (await caller.chat()).end == "reset"
        caller.simulator.break_provider("openai", K.BAD_GATEWAY)
        assert (await caller.chat()).status == 502
        caller.simulator.mend_provider("openai")
        assert (await caller.chat()).status == 200
        with pytest.raises(ScenarioError, match="needs an answer"):
            caller.simulator.break_provider("openai", K.CUT)
        with pytest.raises(ScenarioError, match="openai has no 'plan_window'"):
            caller.simulator.break_provider("openai", K.PLAN_WINDOW)
        with pytest.raises(KeyError):
            caller.simulator.break_provider("nobody")
