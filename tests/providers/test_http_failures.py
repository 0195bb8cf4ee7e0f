"""How calls break and what is said of it: kinds, `sent`, no secrets (U1-U3, U7, U22-U25, D6)."""

import asyncio
import inspect
import socket
import ssl
import traceback
from pathlib import Path

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions

from escalade_server.providers.http import (
    KINDS,
    HttpClient,
    HttpLimits,
    HttpResponse,
    TransportFailure,
    TransportKind,
)
from tests.providers.http_calls import NOTICED_S, PROMPT, SECRET, answering, broken, post, whole
from tests.providers.raw_server import CHUNKED, Peer, Script, serve

CERTIFICATE = Path(__file__).with_name("loopback.pem")


async def test_nobody_listens(client: HttpClient) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    failure = await broken(client, f"http://127.0.0.1:{port}/v1/chat/completions")
    assert (failure.kind, failure.sent) == (TransportKind.CONNECT, False)
    assert failure.detail == "connection refused"


async def test_a_name_that_is_none(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(_self: object, _host: str, _port: int, family: int) -> None:
        raise OSError(None, "no such name")

    monkeypatch.setattr(aiohttp.DefaultResolver, "resolve", resolve)
    failure = await broken(client, "http://escalade.invalid/v1/chat/completions")
    assert (failure.kind, failure.sent) == (TransportKind.CONNECT, False)
    assert failure.detail == "its name is not known to DNS"


async def test_no_connection_in_time(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.gone()  # the greeting of TLS is never answered

    async with serve(script) as server:
        request = post(server.url.replace("http:", "https:"))
        with pytest.raises(TransportFailure) as caught:
            await client.open(request, connect_timeout_ms=50)
    assert (caught.value.kind, caught.value.sent) == (TransportKind.TIMEOUT, False)


async def reset_at_once(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def end_at_once(peer: Peer) -> None:
    await peer.request()


async def end_in_the_head(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-")


async def reset_in_the_body(peer: Peer) -> None:
    await peer.request()
    await peer.send(CHUNKED)
    await peer.chunk(b"data: 1\n\n")
    await asyncio.sleep(0.02)
    peer.reset()


async def end_in_the_body(peer: Peer) -> None:
    await peer.request()
    await peer.send(CHUNKED)
    await peer.chunk(b"data: 1\n\n")


async def end_before_the_length(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")


async def no_http(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"SSH-2.0-canary\r\n\r\n")


async def bad_chunk(peer: Peer) -> None:
    await peer.request()
    await peer.send(CHUNKED + b"zz\r\n")
    await peer.gone()


async def two_lengths(peer: Peer) -> None:
    await peer.request()
    lengths = b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"
    await peer.send(b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\n0\r\n\r\n")


async def huge_header(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"ok", headers=b"X-Canary: " + b"a" * 1_000_000 + b"\r\n")


async def many_headers(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"ok", headers=b"".join(b"X-%d: a\r\n" % n for n in range(10_000)))


async def many_hints(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1_000)
    await peer.gone()


async def compressed(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"\x1f\x8b\x08canary", headers=b"Content-Encoding: gzip\r\n")


_K = TransportKind
BREAKS: dict[Script, TransportKind] = {
    reset_at_once: _K.RESET,
    end_at_once: _K.RESET,
    end_in_the_head: _K.RESET,
    reset_in_the_body: _K.CUT,
    end_in_the_body: _K.CUT,
    end_before_the_length: _K.CUT,
    no_http: _K.PROTOCOL,
    bad_chunk: _K.PROTOCOL,
    two_lengths: _K.PROTOCOL,
    huge_header: _K.PROTOCOL,
    many_headers: _K.PROTOCOL,
    many_hints: _K.PROTOCOL,
    compressed: _K.PROTOCOL,
}


@pytest.mark.parametrize("script", BREAKS, ids=lambda script: script.__name__)
async def test_each_break_has_its_kind_and_the_prompt_goes_out_once(
    client: HttpClient, script: Script
) -> None:
    async with serve(script) as server:
        failure = await broken(client, server.url)
    assert (failure.kind, failure.sent) == (BREAKS[script], True)
    assert server.bodies == [PROMPT]


async def to_the_end(response: HttpResponse) -> None:
    while await response.read():
        pass


@pytest.mark.parametrize("garbage", [b"zz\r\nhello\r\n", b"5\r\nhelloXX\r\n"], ids=["size", "end"])
@pytest.mark.fault("U22")
async def test_a_broken_framing_ends_the_read_that_waits(
    client: HttpClient, garbage: bytes
) -> None:
    reading = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.chunk(b"hello")
        await reading.wait()
        await peer.send(garbage)
        await peer.gone()

    async with serve(script) as server:
        response = await client.open(post(server.url))
        assert await response.read() == b"hello"
        asyncio.get_running_loop().call_later(0.01, reading.set)
        async with asyncio.timeout(NOTICED_S):
            with pytest.raises(TransportFailure) as first:
                await to_the_end(response)
            with pytest.raises(TransportFailure) as second:
                await response.read()
        response.close(abort=False)
    assert first.value.kind is second.value.kind is TransportKind.PROTOCOL


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
@pytest.mark.fault("U24")
async def test_a_redirect_is_an_answer(client: HttpClient, status: str) -> None:
    async with serve(answering) as canary:

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.answer(b"", status=status, headers=b"Location: %b\r\n" % canary.url.encode())

        async with serve(script) as server:
            response = await client.open(post(server.url))
            assert response.status == int(status[:3])
            response.close(abort=False)
    assert canary.connections == 0


@pytest.mark.fault("U25")
async def test_news_before_the_answer_are_passed_over(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 103 Early\r\nX: y\r\n\r\n" * 100)
        await peer.answer(b"ok")

    async with serve(script) as server:
        assert await whole(client, post(server.url)) == b"ok"


# ---------------------------------------------------------------------------- secrets and TLS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\nX-Evil: 1", " ", "\t", "\0", "é", "\x7f"])
async def test_a_key_that_may_not_be_sent_is_never_shown(client: HttpClient, end: str) -> None:
    async with serve(answering) as server:
        with pytest.raises(TransportFailure) as caught:
            await client.open(post(server.url, key=SECRET + end))
    failure = caught.value
    assert (failure.kind, failure.sent) == (TransportKind.REQUEST, False)
    assert "'Authorization'" in failure.detail
    assert SECRET not in "".join(traceback.format_exception(failure))
    assert server.connections == 0


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/completions", "http:///completions", "no url", "http://u:canary@x/"]
)
async def test_a_bad_url_is_a_bad_request(client: HttpClient, url: str) -> None:
    failure = await broken(client, url)
    assert (failure.kind, failure.sent) == (TransportKind.REQUEST, False)


def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


async def test_a_certificate_of_nobody_known_is_refused(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    async with serve(script, server_tls()) as server:
        failure = await broken(client, server.url)
    assert (failure.kind, failure.sent) == (TransportKind.TLS, False)
    assert "self-signed" in failure.detail.replace(" ", "-")
    assert server.heads == []


@pytest.mark.fault("U2")
async def test_a_bundle_may_be_trusted_for_its_own_name_only() -> None:
    limits = HttpLimits(ca_file=str(CERTIFICATE))
    async with serve(answering, server_tls()) as server, HttpClient(limits) as client:
        assert await whole(client, post(server.url)) == b"ok"
        failure = await broken(client, server.url.replace("127.0.0.1", "localhost"))
    assert (failure.kind, failure.sent) == (TransportKind.TLS, False)
    assert len(server.heads) == 1


async def test_an_abort_over_tls_reaches_the_provider_at_once() -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.gone()
        left.set()

    limits = HttpLimits(ca_file=str(CERTIFICATE))
    async with serve(script, server_tls()) as server, HttpClient(limits) as client:
        response = await client.open(post(server.url))
        response.close(abort=True)
        await asyncio.wait_for(left.wait(), NOTICED_S)


# ---------------------------------------------------------------------------- the table


EXPECTED = {
    _K.REQUEST: "InvalidURL InvalidUrlClientError NonHttpUrlClientError",
    _K.CONNECT: "ClientConnectorError ClientConnectorDNSError ClientProxyConnectionError"
    " UnixClientConnectorError",
    _K.TLS: "ClientSSLError ClientConnectorSSLError ClientConnectorCertificateError"
    " ServerFingerprintMismatch",
    _K.TIMEOUT: "ServerTimeoutError ConnectionTimeoutError SocketTimeoutError",
    _K.RESET: "ClientConnectionError ClientConnectionResetError ClientOSError"
    " ServerConnectionError ServerDisconnectedError",
    _K.CUT: "ClientPayloadError",
    _K.PROTOCOL: "ClientError ClientResponseError ClientHttpProxyError ContentTypeError"
    " WSServerHandshakeError HttpProcessingError BadHttpMessage"
    " HttpBadRequest PayloadEncodingError ContentEncodingError TransferEncodingError"
    " ContentLengthError DecompressSizeError LineTooLong InvalidHeader BadStatusLine"
    " BadHttpMethod InvalidURLError UploadAbortedError",
    _K.REDIRECT: "RedirectClientError TooManyRedirects InvalidUrlRedirectClientError"
    " NonHttpUrlRedirectClientError",
}
OF_OTHER_PARTS = (
    "BadContentDispositionHeader BadContentDispositionParam EofStream"  # warnings, internal signal
    " WSMessageTypeError WebSocketError"  # WebSockets
)
"""What a call of ours cannot raise; a new name in the library must be placed here or above."""


def exported() -> dict[str, type[BaseException]]:
    """Every exception that the library shows a user."""
    return {
        name: thing
        for module in (aiohttp, client_exceptions, http_exceptions)
        for name, thing in inspect.getmembers(module, inspect.isclass)
        if issubclass(thing, BaseException) and thing.__module__.startswith("aiohttp")
    }


def test_the_table_knows_every_exception_of_the_library() -> None:
    kinds = {
        name: next((KINDS[base] for base in cls.__mro__ if base in KINDS), None)
        for name, cls in exported().items()
    }
    expected: dict[str, TransportKind | None]
    expected = {name: kind for kind, names in EXPECTED.items() for name in names.split()}
    expected |= dict.fromkeys(OF_OTHER_PARTS.split())
    assert kinds == expected


def test_every_kind_has_a_row_and_only_bugs_pass_the_table() -> None:
    assert set(KINDS.values()) == set(TransportKind)
    for bug in (AssertionError, TypeError, KeyError, asyncio.CancelledError):
        assert not issubclass(bug, tuple(KINDS))
