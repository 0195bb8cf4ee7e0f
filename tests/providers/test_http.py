"""What the HTTP client asks, reads and lets go of, against a scripted server (U21, U24, R25)."""

import asyncio
import socket
import threading
import time

import aiohttp
import pytest

from escalade_server.providers.http import (
    HttpClient,
    HttpLimits,
    TransportFailure,
    TransportKind,
)
from tests.providers.http_calls import NOTICED_S, PROMPT, answering, broken, post, whole
from tests.providers.raw_server import CHUNKED, Peer, serve


async def test_an_answer_is_status_headers_and_bytes(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        headers = b"X-Rate: 1\r\nX-RATE: 2\r\nContent-Type: application/json\r\nX-Odd: \xff\r\n"
        await peer.answer(b'{"a": 1}', status="429 Slow down", headers=headers)

    async with serve(script) as server:
        response = await client.open(post(server.url))
        assert response.status == 429
        assert response.content_type == "application/json"
        assert response.headers["x-rate"] == "1, 2"
        assert response.headers["x-odd"] == "\ufffd"
        assert await response.read() == b'{"a": 1}'
        assert await response.read() == b""
        response.close(abort=False)
    assert server.bodies == [PROMPT]


async def test_the_request_asks_for_plain_bytes_and_carries_no_cookie(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.answer(b"", headers=b"Set-Cookie: a=b\r\n")

    async with serve(script) as server:
        for _ in range(2):
            await whole(client, post(server.url))
    for head in server.heads:
        lines = head.lower().split(b"\r\n")
        assert lines[0] == b"post /v1/chat/completions http/1.1"
        assert b"accept-encoding: identity" in lines
        assert b"user-agent: escalade" in lines
        assert not any(line.startswith(b"cookie") for line in lines)


@pytest.mark.parametrize("size", [0, 1, 300_000, 3_000_000])
async def test_a_body_of_any_size_arrives_whole(client: HttpClient, size: int) -> None:
    body = bytes(index % 251 for index in range(1_000)) * (size // 1_000) + b"x" * (size % 1_000)
    async with serve(answering) as server:
        assert await whole(client, post(server.url, body)) == b"ok"
    assert server.bodies == [body]


async def test_proxy_variables_are_not_trusted(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(answering) as server, serve(answering) as canary:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
        monkeypatch.setenv("NO_PROXY", "")
        assert await whole(client, post(server.url)) == b"ok"
    assert canary.connections == 0


async def test_nothing_waits_for_more_to_send(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.gone()

    async with serve(script) as server:
        response = await client.open(post(server.url))
        connection = response._response.connection
        assert connection is not None
        assert connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        response.close(abort=True)


async def test_chunks_may_be_split_anywhere(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in CHUNKED + b"3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\nTrailer: z\r\n\r\n":
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)

    async with serve(script) as server:
        assert await whole(client, post(server.url)) == b"abcdefgh"


async def test_what_has_arrived_is_read_at_once(client: HttpClient) -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.chunk(b"data: 1\n\n")
        await go_on.wait()
        await peer.chunk(b"data: 2\n\n")
        await peer.send(b"0\r\n\r\n")

    async with serve(script) as server:
        response = await client.open(post(server.url))
        assert await response.read() == b"data: 1\n\n"
        go_on.set()
        assert await response.read() == b"data: 2\n\n"
        assert await response.read() == b""
        response.close(abort=False)


async def test_a_slow_reader_slows_the_provider(client: HttpClient) -> None:
    taken = 0

    async def script(peer: Peer) -> None:
        nonlocal taken
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(1_000):
            await peer.chunk(b"x" * 65_536)
            taken += 65_536

    async with serve(script) as server:
        response = await client.open(post(server.url))
        await asyncio.sleep(0.3)
        assert 0 < taken < 16 << 20  # the kernel's buffers and ours, not the 64 MB there are
        assert len(await response.read()) < 1 << 20
        response.close(abort=True)


async def test_an_error_body_is_bounded_and_never_raises(client: HttpClient) -> None:
    async def long(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"\xff" * 1_000_000, status="500 E")

    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 500 E\r\nContent-Length: 9\r\n\r\nshort")
        await asyncio.sleep(0.02)

    async def compressed(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"\x1f\x8b", status="500 E", headers=b"Content-Encoding: gzip\r\n")

    for script, expected in ((long, b"\xff" * 65_536), (cut, b"short"), (compressed, b"")):
        async with serve(script) as server:
            response = await client.open(post(server.url))
            assert await response.body() == expected
            response.close(abort=True)


# ---------------------------------------------------------------------------- connections


async def test_calls_in_turn_share_one_connection(client: HttpClient) -> None:
    async with serve(answering) as server:
        for _ in range(5):
            assert await whole(client, post(server.url)) == b"ok"
    assert (server.connections, len(server.heads)) == (1, 5)


@pytest.mark.parametrize(("cap", "most"), [(0, 16), (2, 2)])
async def test_calls_at_once_share_up_to_the_cap(cap: int, most: int) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await asyncio.sleep(0.02)
            await peer.answer(b"ok")

    async with serve(script) as server, HttpClient(HttpLimits(connections_max=cap)) as client:
        got = await asyncio.gather(*(whole(client, post(server.url)) for _ in range(16)))
    assert got == [b"ok"] * 16
    assert server.open_most == most


async def test_finish_waits_for_the_end_of_the_framing(client: HttpClient) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(CHUNKED)
            await peer.chunk(b"data: [DONE]\n\n")
            await asyncio.sleep(0.01)
            await peer.chunk(b": bye\n\n")
            await asyncio.sleep(0.01)
            await peer.send(b"0\r\n\r\n")

    async with serve(script) as server:
        for _ in range(3):
            response = await client.open(post(server.url))
            assert await response.read() == b"data: [DONE]\n\n"
            await response.finish(within_ms=1_000)
        assert server.connections == 1


async def test_finish_gives_up_on_an_end_that_does_not_come(client: HttpClient) -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.chunk(b"data: [DONE]\n\n")
        await peer.gone()
        left.set()

    async with serve(script) as server:
        response = await client.open(post(server.url))
        await response.read()
        await response.finish(within_ms=10)
        await asyncio.wait_for(left.wait(), NOTICED_S)


@pytest.mark.parametrize("pause_s", [0, 0.02])
async def test_an_answer_nobody_asked_for_is_nobodys(client: HttpClient, pause_s: float) -> None:
    """Sent with the right answer, or into the pool after it; the next call must not get it."""
    sent = asyncio.Semaphore(0)

    async def script(peer: Peer) -> None:
        while await peer.request():
            right = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
            wrong = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
            if pause_s:
                await peer.send(right)
                await asyncio.sleep(pause_s)
                await peer.send(wrong)
            else:
                await peer.send(right + wrong)
            sent.release()

    async with serve(script) as server:
        for _ in range(3):
            assert await whole(client, post(server.url)) == b"right"
            await sent.acquire()
            await asyncio.sleep(0.01)  # a turn of the loop, in which what came is read
    assert server.connections == 3
    assert server.bodies == [PROMPT] * 3


# ---------------------------------------------------------------------------- letting go


async def test_an_abort_reaches_the_provider_at_once(client: HttpClient) -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        await peer.chunk(b"data: 1\n\n")
        await peer.gone()
        left.set()

    async with serve(script) as server:
        response = await client.open(post(server.url))
        await response.read()
        response.close(abort=True)
        response.close(abort=True)
        await asyncio.wait_for(left.wait(), NOTICED_S)


async def test_silence_ends_when_the_caller_cancels(client: HttpClient) -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        asked.set()
        await peer.gone()
        left.set()

    async with serve(script) as server:
        call = asyncio.create_task(client.open(post(server.url)))
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(left.wait(), NOTICED_S)


async def test_a_cancelled_upload_is_not_finished_behind_our_back(client: HttpClient) -> None:
    size = 32 << 20
    begun, cancelled = asyncio.Event(), asyncio.Event()
    taken = 0

    async def script(peer: Peer) -> None:
        nonlocal taken
        taken += len(await peer.reader.read(1))
        begun.set()
        await cancelled.wait()
        try:
            while data := await peer.reader.read(65_536):
                taken += len(data)
        except ConnectionError:
            pass

    async with serve(script) as server:
        call = asyncio.create_task(client.open(post(server.url, b"x" * size)))
        await begun.wait()
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        cancelled.set()
        async with asyncio.timeout(NOTICED_S):
            while server.open_now:  # noqa: ASYNC110 - the last bytes are read from the socket
                await asyncio.sleep(0.001)
    assert taken < size // 2


# ---------------------------------------------------------------------------- stale connections


class Blunt:
    """A server in a thread, so that its end is in our kernel before our loop can look."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.accepted: list[socket.socket] = []
        self.received: list[bytes] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for _ in range(2):
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.accepted.append(sock)
            self.received.append(sock.recv(65_536))
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for sock in self.accepted:
            sock.close()
        self.thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1/chat/completions"


async def test_a_connection_seen_to_be_closed_is_replaced(client: HttpClient) -> None:
    server = Blunt()
    try:
        assert await whole(client, post(server.url)) == b"ok"
        server.accepted[0].close()
        await asyncio.sleep(0.05)
        assert await whole(client, post(server.url)) == b"ok"
        assert len(server.received) == 2
    finally:
        server.close()


async def test_a_connection_closed_in_the_instant_of_use_is_told_honestly(
    client: HttpClient,
) -> None:
    """Either nothing was written, and a fresh connection serves; or it was, and we say so."""
    server = Blunt()
    try:
        assert await whole(client, post(server.url)) == b"ok"
        server.accepted[0].close()
        time.sleep(0.05)  # noqa: ASYNC251  # the loop must not see the end before the call starts
        (result,) = await asyncio.gather(whole(client, post(server.url)), return_exceptions=True)
        if isinstance(result, TransportFailure):
            assert (result.kind, result.sent) == (TransportKind.RESET, True)
            assert len(server.received) == 1
        else:
            assert result == b"ok"
            assert len(server.received) == 2
    finally:
        server.close()


@pytest.mark.parametrize("times", [1, 2])
async def test_a_request_of_which_nothing_left_goes_out_again_once(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """The connection is closed between taking it from the pool and the first write."""
    closed: list[aiohttp.ClientRequest] = []
    send = aiohttp.ClientRequest.send

    async def send_after_close(
        self: aiohttp.ClientRequest, connection: aiohttp.connector.Connection
    ) -> aiohttp.ClientResponse:
        if len(closed) < times:
            closed.append(self)
            assert connection.transport is not None
            connection.transport.close()
        return await send(self, connection)

    monkeypatch.setattr(aiohttp.ClientRequest, "send", send_after_close)
    async with serve(answering) as server:
        if times == 1:
            assert await whole(client, post(server.url)) == b"ok"
            assert server.bodies == [PROMPT]
        else:
            failure = await broken(client, server.url)
            assert (failure.kind, failure.sent) == (TransportKind.RESET, False)
            assert server.bodies == []
