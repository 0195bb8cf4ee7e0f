"""One endpoint over real sockets: how a call ends, and what becomes of its connection."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from escalade_server.core.commands import CallModel
from escalade_server.core.events import ChunkArrived, TextDelta
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.task import Message, Request, Role, Task, Text, Usage
from escalade_server.engine.clock import SystemClock
from escalade_server.engine.ports import ProviderFailure
from escalade_server.provider_simulator import (
    Fault,
    FaultKind,
    ModelScript,
    ProviderScript,
    Scenario,
    Simulator,
)
from escalade_server.providers import dialect
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.dialect import CLASSES, WORDS
from escalade_server.providers.http import HttpClient, TransportKind
from escalade_server.providers.registry import ProviderRegistry
from tests.providers.candidates import candidate
from tests.providers.golden_cases import merged
from tests.providers.raw_server import CHUNKED, Peer, serve

KEY = "sk-canary-0123456789"
PROMPT = "canary prompt"
REQUEST = Request("r1", Task(), (Message(Role.USER, (Text(PROMPT),)),))
TEXT = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
DONE = b"data: [DONE]\n\n"
NOTICED_S = 10.0


def calling(
    http: HttpClient, base_url: str, provider: str = "openai", key: str = KEY
) -> AsyncGenerator[ChunkArrived, None]:
    endpoint = Endpoint(provider, "default", base_url, key)
    providers = ProviderRegistry.over_http([("openai", endpoint)], http, SystemClock())
    order = CallModel(1, candidate(provider, "m"))
    return providers.of(order.candidate.model).call(order, REQUEST)


async def outcome(calls: AsyncGenerator[ChunkArrived, None]) -> list[ChunkArrived | Failure]:
    told: list[ChunkArrived | Failure] = []
    try:
        async for chunk in calls:
            told += (chunk,)
    except ProviderFailure as broken:
        told.append(broken.failure)
        shown = repr(broken.failure) + str(broken) + repr(broken.__context__)
        assert KEY not in shown
        assert "canary" not in shown
    return told


async def failure(http: HttpClient, base_url: str, provider: str = "openai") -> Failure:
    told = await outcome(calling(http, base_url, provider))
    assert isinstance(told[-1], Failure)
    return told[-1]


async def test_an_answer_is_read_and_its_connection_used_again(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(CHUNKED)
            await peer.chunk(TEXT)
            await peer.chunk(STOP + USAGE)
            await asyncio.sleep(0.02)
            await peer.chunk(DONE)
            await peer.send(b"0\r\n\r\n")

    async with serve(script) as server:
        base = server.url.removesuffix("/chat/completions")
        for _ in range(3):
            told = merged(await outcome(calling(client, base)))
            assert told["deltas"] == [{"text": "Hi"}]
            assert told["finish"] == ["stop", ""]
            assert told["usage"] is not None
            assert told["failure"] is None
        assert server.connections == 1
        assert b"POST /v1/chat/completions " in server.heads[0]
        assert f"authorization: bearer {KEY}".encode() in server.heads[0].lower()


async def test_each_read_is_one_chunk_as_it_arrives(client: HttpClient) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.chunk(TEXT + TEXT)
        await go_on.wait()
        await peer.chunk(STOP + DONE)
        await peer.send(b"0\r\n\r\n")

    async with (
        serve(script) as server,
        aclosing(calling(client, server.url.removesuffix("/chat/completions"))) as chunks,
    ):
        first = await anext(chunks)
        assert first == ChunkArrived(1, (TextDelta("HiHi"),), model="m")
        go_on.set()
        rest = [chunk async for chunk in chunks]
        assert [chunk.finish is not None for chunk in rest] == [True]


async def test_a_whole_answer_ends_promptly_though_the_connection_stays(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "ENDING_MS", 50)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.chunk(TEXT + STOP + USAGE)
        await peer.gone()

    async with serve(script) as server:
        base = server.url.removesuffix("/chat/completions")
        async with asyncio.timeout(30):
            told = merged(await outcome(calling(client, base)))
        assert told["finish"] == ["stop", ""]
        assert told["failure"] is None


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_leaving_closes_the_connection_at_once(client: HttpClient, how: str) -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.chunk(TEXT)
        await peer.gone()
        left.set()

    async with serve(script) as server:
        chunks = calling(client, server.url.removesuffix("/chat/completions"))
        await anext(chunks)
        if how == "cancel":
            reading = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0.01)
            reading.cancel()
        else:
            await chunks.aclose()
        async with asyncio.timeout(NOTICED_S):
            await left.wait()


@pytest.mark.parametrize("ending", [b"", b"0\r\n\r\n"], ids=["dropped", "ended"])
async def test_an_answer_that_breaks_off_is_a_failure(client: HttpClient, ending: bytes) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.chunk(TEXT)
        await go_on.wait()
        await peer.send(ending)

    async with serve(script) as server:
        chunks = calling(client, server.url.removesuffix("/chat/completions"))
        assert (await anext(chunks)).deltas == (TextDelta("Hi"),)
        go_on.set()
        (told,) = await outcome(chunks)
    assert isinstance(told, Failure)
    assert told.cls is FailureClass.PROTOCOL
    assert told.code == "cut"
    words = "the stream ended before its end (cut)" if ending else "the answer was cut off"
    assert told.detail == words
    assert told.sent


async def test_a_finished_answer_is_whole_though_its_connection_breaks(
    client: HttpClient,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.chunk(TEXT + STOP)
        peer.reset()

    async with serve(script) as server:
        base = server.url.removesuffix("/chat/completions")
        told = merged(await outcome(calling(client, base)))
    assert told["failure"] is None
    assert told["finish"] == ["stop", ""]


async def test_nobody_there_is_an_outage_and_nothing_was_sent(client: HttpClient) -> None:
    async with serve(lambda peer: peer.gone()) as server:
        base = server.url.removesuffix("/chat/completions")
    told = await failure(client, base)
    assert (told.cls, told.code, told.sent) == (FailureClass.OUTAGE, "connect", False)
    assert told.detail == "it cannot be reached (connection refused)"


async def test_a_reset_before_the_answer_is_an_outage_that_may_be_billed(
    client: HttpClient,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        peer.reset()

    async with serve(script) as server:
        told = await failure(client, server.url.removesuffix("/chat/completions"))
    assert (told.cls, told.code, told.sent) == (FailureClass.OUTAGE, "reset", True)
    assert told.detail == "the connection was reset"


async def test_a_key_that_cannot_be_sent_is_our_configuration(client: HttpClient) -> None:
    chunks = calling(client, "http://127.0.0.1:9/v1", key=KEY + "\n")
    (told,) = await outcome(chunks)
    assert isinstance(told, Failure)
    assert (told.cls, told.code, told.sent) == (FailureClass.FORBIDDEN, "request", False)


async def test_an_error_is_classified_and_its_connection_used_again(client: HttpClient) -> None:
    body = b'{"error":{"message":"canary","type":"requests","code":"rate_limit_exceeded"}}'

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.answer(body, status="429 Too Many", headers=b"Retry-After: 7200\r\n")

    async with serve(script) as server:
        base = server.url.removesuffix("/chat/completions")
        for _ in range(2):
            told = await failure(client, base)
            assert told.cls is FailureClass.QUOTA_WINDOW
            assert told.http_status == 429
            assert told.reset_at_ms is not None
        assert server.connections == 1


async def test_the_body_of_an_error_may_neither_linger_nor_swell(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "ERROR_BODY_MS", 50)
    endless = False

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED.replace(b"200 OK", b"503 Busy"))
        while endless:
            await peer.chunk(b"x" * 65_536)
        await peer.gone()

    async with serve(script) as server:
        base = server.url.removesuffix("/chat/completions")
        async with asyncio.timeout(30):
            assert (await failure(client, base)).cls is FailureClass.OVERLOADED
            endless = True
            assert (await failure(client, base)).cls is FailureClass.OVERLOADED


async def test_a_redirect_is_an_answer_and_never_followed(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.answer(b"", status="307 Go", headers=b"Location: /elsewhere\r\n")

    async with serve(script) as server:
        told = await failure(client, server.url.removesuffix("/chat/completions"))
        assert told.cls is FailureClass.FORBIDDEN
        assert len(server.heads) == 1


def test_every_kind_of_transport_failure_has_a_class_and_words() -> None:
    assert set(CLASSES) == set(WORDS) == set(TransportKind)


C = FailureClass
SEEN = {
    FaultKind.RATE_LIMIT: C.RATE_SHORT,
    FaultKind.BALANCE: C.BALANCE,
    FaultKind.OVERLOADED: C.OVERLOADED,
    FaultKind.SERVER_ERROR: C.OUTAGE,
    FaultKind.BAD_GATEWAY: C.OUTAGE,
    FaultKind.GATEWAY_TIMEOUT: C.TIMEOUT,
    FaultKind.UNAUTHORIZED: C.AUTH,
    FaultKind.MODEL_GONE: C.MODEL_GONE,
    FaultKind.CONTEXT_LENGTH: C.CONTEXT,
    FaultKind.TOO_LARGE: C.TOO_LARGE,
    FaultKind.PROMPT_BLOCKED: C.CONTENT,
    FaultKind.REDIRECT: C.FORBIDDEN,
    FaultKind.RESET: C.OUTAGE,
    FaultKind.HTML_200: C.PROTOCOL,
    FaultKind.EMPTY_200: C.PROTOCOL,
    FaultKind.CUT: C.PROTOCOL,
    FaultKind.BARE_END: C.PROTOCOL,
    FaultKind.GARBAGE_JSON: C.PROTOCOL,
    FaultKind.ENDLESS_LINE: C.PROTOCOL,
}
VENDORS = ("openai", "deepseek", "openrouter", "nano-gpt", "minimax", "ollama")


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_simulated_vendor_is_understood(client: HttpClient, vendor: str) -> None:
    provider = ProviderScript(models={"m": ModelScript(text="Hello there", reasoning="Hm")})
    simulator = Simulator(Scenario(providers={vendor: provider}))
    await simulator.start()
    try:
        base = simulator.provider_url(vendor)
        told = merged(await outcome(calling(client, base, vendor)))
        assert [delta for delta in told["deltas"] if "state" not in delta] == [
            {"reasoning": "Hm"},
            {"text": "Hello there"},
        ]
        assert told["finish"] == ["stop", ""]
        assert Usage(**told["usage"]).total_tokens > 0
        for kind, cls in SEEN.items():
            faults = (Fault(kind=kind),)
            simulator.script(vendor, "m", ModelScript(text="Hello there", faults=faults))
            assert (await failure(client, base, vendor)).cls is cls, kind
        broken = (Fault(kind=FaultKind.ERROR_FRAME),)
        simulator.script(vendor, "m", ModelScript(text="Hello there", faults=broken))
        assert (await failure(client, base, vendor)).cls in {C.OUTAGE, C.OVERLOADED}
    finally:
        await simulator.stop()
