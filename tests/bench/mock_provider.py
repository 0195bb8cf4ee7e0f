"""A provider that costs next to nothing: HTTP/1.1 with keep-alive by hand, in its own process.

``python -m tests.bench.mock_provider`` prints its port and answers ``/v1/chat/completions`` until
its standard input ends. The prompt says what the answer is like: ``chunks=64 pause=20`` is 64
pieces, the first of them after 20 ms and then one every 20 ms; with a pause of 0 they leave at
once, one write each. Whoever does not ask for a stream gets the same text in one piece.
"""

import asyncio
import json
import re
import sys
from functools import lru_cache
from typing import NamedTuple

from uvloop import new_event_loop

PIECE = " word and more"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SCRIPT = re.compile(rb"chunks=(\d+) pause=(\d+)")
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n\r\n"


class Script(NamedTuple):
    """What an answer is like; as the prompt says it."""

    chunks: int
    pause_ms: int

    def prompt(self) -> str:
        """Ask for it."""
        return f"chunks={self.chunks} pause={self.pause_ms}: parse this line, please."

    @property
    def text(self) -> str:
        """The whole answer."""
        return PIECE * self.chunks

    @staticmethod
    def of(body: bytes) -> "Script":
        """Find the script in a request."""
        found = _SCRIPT.search(body)
        assert found is not None, "the prompt must say how to answer"
        return Script(int(found[1]), int(found[2]))


def _usage(chunks: int) -> dict[str, int]:
    return {"prompt_tokens": 12, "completion_tokens": chunks * 3, "total_tokens": 12 + chunks * 3}


def _event(payload: dict[str, object]) -> bytes:
    line = (
        b"data: %b\n\n"
        % json.dumps(
            {
                "id": "c1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "mock",
                **payload,
            }
        ).encode()
    )
    return b"%x\r\n%b\r\n" % (len(line), line)


def _choice(delta: dict[str, str], finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


STREAM_HEAD = _HEAD % (b"text/event-stream", b"transfer-encoding: chunked")
FIRST = _event(_choice({"role": "assistant", "content": ""}))
CHUNK = _event(_choice({"content": PIECE}))


@lru_cache
def ending(chunks: int) -> bytes:
    """The last events and the end of the body."""
    done = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    usage: dict[str, object] = {"choices": [], "usage": _usage(chunks)}
    return _event(_choice({}, "stop")) + _event(usage) + done


@lru_cache
def whole(script: Script) -> bytes:
    """An answer that is not streamed."""
    message = {"role": "assistant", "content": script.text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps({"model": "mock", "choices": [choice], "usage": _usage(script.chunks)})
    return _HEAD % (b"application/json", b"content-length: %d" % len(body)) + body.encode()


class Connection(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._got = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._got, 0, end + 2)
        size = end + 4 + (int(length[1]) if length else 0)
        if len(self._got) < size:
            return
        request, self._got = self._got[:size], self._got[size:]
        self._answer(request)

    def _answer(self, request: bytes) -> None:
        transport, script = self._transport, Script.of(request)
        if transport is None:
            return
        if b'"stream":true' not in request:
            transport.write(whole(script))
        elif script.pause_ms:
            transport.write(STREAM_HEAD + FIRST)
            self._next(script, 1, self._loop.time() + script.pause_ms / 1_000)
        elif script.chunks == 1:
            transport.write(STREAM_HEAD + FIRST + CHUNK + ending(1))
        else:
            transport.write(STREAM_HEAD + FIRST)
            for _ in range(script.chunks):
                transport.write(CHUNK)
            transport.write(ending(script.chunks))

    def _next(self, script: Script, number: int, at: float) -> None:
        """Send chunk ``number`` when its time has come; times do not drift."""

        def send() -> None:
            if self._transport is None:
                return
            if number == script.chunks:
                self._transport.write(CHUNK + ending(script.chunks))
                return
            self._transport.write(CHUNK)
            self._next(script, number + 1, at + script.pause_ms / 1_000)

        self._loop.call_at(at, send)


async def main() -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(loop), "127.0.0.1", 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
