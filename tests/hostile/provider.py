"""A provider that misbehaves in every way of the catalogue (rows U), in a process of its own.

`python -m tests.hostile.provider` prints its port. The first part of a request's path names what
it does with it; `/well` answers as it should, after a moment.
"""

import asyncio
import gzip
import json
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = EVENTS + b"Transfer-Encoding: chunked\r\n\r\n"
MEBI = 1 << 20
FLOOD_BYTES = 48 * MEBI
"""What a flood sends of its own accord; whoever reads it all has no bound."""
DRIP_S = 0.05


class Wire:
    """The provider's end of one connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def chunks(self, *parts: bytes) -> None:
        for part in parts:
            await self.send(b"%x\r\n%b\r\n" % (len(part), part))

    async def drip(self, part: bytes) -> None:
        while True:
            await self.chunks(part)
            await asyncio.sleep(DRIP_S)

    async def flood(self, part: bytes, total: int = FLOOD_BYTES) -> None:
        for _ in range(total // len(part)):
            await self.chunks(part)

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(1, 13, linger)
        self.writer.transport.abort()


Script = Callable[[Wire], Awaitable[None]]


def event(value: object) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def chunk(finish: str | None = None, **delta: object) -> bytes:
    return event({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


WORD, END = chunk(content="Once "), chunk("stop")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}})
DONE = event(b"[DONE]")
GOOD = WORD + END + USAGE + DONE


def streams(*parts: bytes, end: bool = True) -> Script:
    """Send an answer in good HTTP; without its end, hang up."""

    async def play(wire: Wire) -> None:
        await wire.send(CHUNKED)
        await wire.chunks(*parts)
        if end:
            await wire.send(b"0\r\n\r\n")

    return play


def answers(body: bytes, status: str = "200 OK", *headers: str) -> Script:
    """Send a body of known length."""

    async def play(wire: Wire) -> None:
        head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers))
        await wire.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return play


def raw(data: bytes, *, stay: bool = False) -> Script:
    """Send bytes that need not be HTTP; then hang up, or stay."""

    async def play(wire: Wire) -> None:
        await wire.send(data)
        if stay:
            await asyncio.sleep(3_600)

    return play


def after(head: Sequence[bytes], part: bytes, *, drip: bool = False) -> Script:
    """Begin an answer, then flood or drip."""

    async def play(wire: Wire) -> None:
        await wire.send(CHUNKED)
        await wire.chunks(*head)
        await (wire.drip(part) if drip else wire.flood(part))
        await wire.send(b"0\r\n\r\n")

    return play


def whole(part: bytes) -> Script:
    """Begin a JSON text, and go on with it."""

    async def play(wire: Wire) -> None:
        await wire.send(CHUNKED)
        await wire.chunks(b'{"choices":[{"message":{"content":"')
        await wire.flood(part)

    return play


async def silent(_wire: Wire) -> None:
    await asyncio.sleep(3_600)


async def stalled(wire: Wire) -> None:
    await wire.send(CHUNKED)
    await wire.chunks(WORD)
    await silent(wire)


async def reset(wire: Wire) -> None:
    await wire.send(CHUNKED)
    await wire.chunks(WORD)
    await asyncio.sleep(DRIP_S)
    wire.reset()


async def well(wire: Wire) -> None:
    await wire.send(CHUNKED)
    await wire.chunks(WORD)
    await asyncio.sleep(0.01)
    await wire.chunks(END + USAGE + DONE)
    await wire.send(b"0\r\n\r\n")


def call(index: int, arguments: str = "{") -> bytes:
    made = {"index": index, "id": f"c{index}", "function": {"name": "f", "arguments": arguments}}
    return chunk(tool_calls=[made])


def message(text: str) -> bytes:
    return event({"choices": [{"delta": {"content": text}}], "x": [[[]]], "y": {"z": text}})


ABSURD = event(b'{"usage":{"prompt_tokens":-1,"completion_tokens":1e99}}')
CHOICES = event({"choices": [{"index": n, "delta": {}} for n in range(5_000)]})
PAGE = b"<html>" + b"<p>log in</p>" * 500_000
BOMB = gzip.compress(bytes(64 * MEBI), 9)
LIMITED = {"error": {"type": "rate_limit_error", "code": "rate_limit_exceeded", "message": "no"}}
DEEP = b'{"choices":' + b"[" * 100_000
INFORMED = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 2_000

SCRIPTS: Mapping[str, Script] = {
    "U3-mute": silent,
    "U4-headers-only": raw(CHUNKED, stay=True),
    "U4-comments": after([], b": ping\n\n", drip=True),
    "U4-comment-flood": after([], b": ping\n\n" * 8_192),
    "U4-empty-lines": after([], b"\n" * 65_536),
    "U5-stall": stalled,
    "U6-drip": after([b"data: "], b"x", drip=True),
    "U7-reset": reset,
    "U8-no-end": streams(WORD),
    "U8-hang-up": streams(WORD, end=False),
    "U9-done-only": streams(DONE),
    "U10-error-frame": streams(event(LIMITED), DONE),
    "U11-error-body": answers(json.dumps(LIMITED).encode()),
    "U12-page": answers(PAGE, "200 OK", "Content-Type: text/html"),
    "U13-empty": answers(b""),
    "U14-endless-line": after([], b"data: " + b"x" * 65_536),
    "U14-after-a-word": after([WORD, b"data: "], b"x" * 65_536),
    "U14-blanks-first": after([], b" " * 65_536),
    "U15-short-lines": after([], b"data: xy\n" * 8_192),
    "U15-long-lines": after([], b"data: " + b"x" * (MEBI - 16) + b"\n"),
    "U15-named-lines": after([], b"field: xy\n" * 8_192),
    "U16-invalid-utf-8": after([WORD], b"data: " + b"\xff\xf0\x9f" * 20_000 + b"\n\n"),
    "U17-line-ends": streams(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r"), b"\r\r\n" * 50_000),
    "U18-no-blank-line": streams(WORD, END.rstrip(), end=True),
    "U19-invalid-json": streams(WORD, event(b'{"choices": [}')),
    "U20-depth": streams(WORD, event(DEEP)),
    "U20-digits": streams(WORD, event(b'{"choices":[{"index":' + b"9" * 900_000 + b"}]}")),
    "U20-many-values": streams(WORD, event(b'{"choices":[' + b"{}," * 300_000 + b"{}]}")),
    "U20-whole-body": whole(b"x" * 65_536),
    "U20-whole-escapes": whole(b"\\u00e9" * 10_922),
    "U21-bomb": answers(BOMB, "200 OK", "Content-Encoding: gzip"),
    "U21-error-bomb": answers(BOMB, "500 No", "Content-Encoding: gzip"),
    "U22-short-body": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + WORD),
    "U22-long-body": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + GOOD * 10_000),
    "U22-two-lengths": raw(CHUNKED[:-2] + b"Content-Length: 3\r\n\r\n0\r\n\r\n"),
    "U22-bad-chunk": raw(CHUNKED + b"zz\r\n", stay=True),
    "U23-many-headers": answers(GOOD, "200 OK", *["X: a"] * 10_000),
    "U23-long-header": answers(GOOD, "200 OK", "X-Long: " + "a" * MEBI),
    "U24-redirect": answers(b"", "307 Temporary", "Location: /elsewhere"),
    "U25-informed": raw(INFORMED + CHUNKED, stay=True),
    "U26-usage": streams(WORD, END, ABSURD),
    "U27-tool-calls": streams(*(call(n) for n in range(1_024)), *[call(7)] * 2_000, DONE),
    "U28-choices": streams(CHOICES, DONE),
    "U29-unknown": after([WORD], b"event: new\n" + message("x" * 1_000)),
    "P7-error-flood": raw(b"HTTP/1.1 529 Busy\r\n\r\n" + b"x" * (8 * MEBI)),
    "not-http": raw(b"SSH-2.0-canary\r\n" * 50_000),
    "flood": after([WORD], chunk(content="word " * 100) * 100),
    "well": well,
}


async def requests(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """Give the script that each request of a connection names."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = re.findall(rb"\r\ncontent-length: *(\d+)", head.lower())
        await reader.readexactly(int(lengths[0]) if lengths else 0)
        yield head.split(b"/", 2)[1].decode()


async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection to its end; a client that goes has had enough."""
    with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        async for name in requests(reader):
            playing = asyncio.ensure_future(SCRIPTS[name](Wire(writer)))
            gone = asyncio.ensure_future(_gone(reader, name))
            await asyncio.wait({playing, gone}, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            playing.cancel()
            with suppress(ConnectionError, asyncio.CancelledError):
                await playing
            if name != "well":
                break
    writer.close()


async def _gone(reader: asyncio.StreamReader, name: str) -> None:
    """Return when the client has ended the connection."""
    if name == "well":
        await asyncio.sleep(3_600)
    await reader.read(1)


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1_024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
