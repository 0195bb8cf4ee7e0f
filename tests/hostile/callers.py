"""Callers that misbehave (rows C), and those whose model does (rows U): one bad input each."""

import asyncio
import gzip
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import grpc
from grpc import aio

from escalade.v1.completion_pb2 import ROLE_USER
from escalade.v1.router_service_pb2 import CompleteRequest, RouteRequest
from tests.hostile.provider import SCRIPTS

COMPLETE = "/escalade.v1.RouterService/Complete"
ROUTE = "/escalade.v1.RouterService/Route"
MEBI = 1 << 20
DEADLINE_S = 20.0
SLOW = "U5-stall"
PACKED = gzip.compress(bytes(64 * MEBI), 9)


def completing(channel: aio.Channel) -> "aio.UnaryStreamMultiCallable[bytes, bytes]":
    """Call `Complete` with any bytes."""
    return channel.unary_stream(COMPLETE)


@dataclass(frozen=True, slots=True)
class Target:
    """The server, and how to speak to it in raw bytes."""

    address: str

    @asynccontextmanager
    async def channel(self, *options: tuple[str, int]) -> AsyncIterator[aio.Channel]:
        """A connection of one's own."""
        own = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))
        async with aio.insecure_channel(self.address, options=(*own, *options)) as channel:
            yield channel

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection below gRPC."""
        reader, writer = await asyncio.open_connection(*self.address.rsplit(":", 1))
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def asking(self, model: str) -> CompleteRequest:
        """A request in good order for one model."""
        made = CompleteRequest()
        made.messages.add(role=ROLE_USER).parts.add(text="Why?")
        made.constraints.allowed_models.append(model)
        made.max_output_tokens = 64
        return made

    async def complete(
        self,
        channel: aio.Channel,
        request: CompleteRequest | bytes,
        *,
        deadline_s: float | None = DEADLINE_S,
        metadata: tuple[tuple[str, str], ...] = (),
        compression: grpc.Compression | None = None,
    ) -> str:
        """Call, and read to the end; the status."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        call = completing(channel)(
            data, timeout=deadline_s, metadata=metadata, compression=compression
        )
        try:
            async for _ in call:
                pass
        except aio.AioRpcError as error:
            return error.code().name
        return "OK"


@dataclass(frozen=True, slots=True)
class Input:
    """One bad input: what a caller does with it, once."""

    call: Callable[[Target, int], Awaitable[str]]


def of_a_model(name: str) -> Input:
    """A call in good order of a model that misbehaves."""

    async def call(target: Target, _number: int) -> str:
        async with target.channel() as channel:
            return await target.complete(channel, target.asking(name))

    return Input(call)


def changed(change: Callable[[CompleteRequest, int], None]) -> Input:
    """A request that is changed into a bad one."""

    made: dict[int, bytes] = {}

    async def call(target: Target, number: int) -> str:
        key = number if change in EACH_ITS_OWN else 0
        if key not in made:
            request = target.asking("well")
            change(request, number)
            made[key] = request.SerializeToString()
        async with target.channel() as channel:
            return await target.complete(channel, made[key])

    return Input(call)


# ------------------------------------------------------------------------- what is asked for


def deep_schema(request: CompleteRequest, _number: int) -> None:
    depth = 100_000
    nested = '{"a":' * depth + "1" + "}" * depth
    request.tools.add(name="f", parameters_json_schema=nested)


def many_tools(request: CompleteRequest, _number: int) -> None:
    for number in range(50_000):
        request.tools.add(name=f"f{number}", parameters_json_schema='{"type":"object"}')


def many_messages(request: CompleteRequest, _number: int) -> None:
    for _ in range(100_000):
        request.messages.add(role=ROLE_USER).parts.add(text="x")


def odd_text(request: CompleteRequest, _number: int) -> None:
    request.messages[0].parts[0].text = "\0\u202e\u2066\r\n" * 50_000


def ended_header(request: CompleteRequest, _number: int) -> None:
    request.request_id = "a\r\nx-api-key: b"


def no_bound(request: CompleteRequest, _number: int) -> None:
    request.max_output_tokens = -1


def unknown_names(request: CompleteRequest, number: int) -> None:
    del request.constraints.allowed_models[:]
    request.constraints.allowed_models.extend(f"none-{number}-{n}" for n in range(10_000))


def same_id(request: CompleteRequest, number: int) -> None:
    request.request_id = "the-same"
    request.messages[0].parts[0].text = f"But not the same question: {number}."


# ------------------------------------------------------------------------- how it is asked for


async def too_large(target: Target, _number: int) -> str:
    """More than the limit, in one message (C6)."""
    async with target.channel() as channel:
        return await target.complete(channel, bytes(17 * MEBI))


async def bomb(target: Target, _number: int) -> str:
    """Little on the wire, much when it is unpacked (C6)."""
    async with target.socket() as (reader, writer):
        writer.write(PREFACE + headers(COMPLETE, b"gzip"))
        body = b"\1" + struct.pack(">I", len(PACKED)) + PACKED
        for at in range(0, len(body), 16_384):
            part = body[at : at + 16_384]
            last = at + 16_384 >= len(body)
            writer.write(frame(0, 1 if last else 0, 1, part))
        await writer.drain()
        return await until_quiet(reader)


async def no_message(target: Target, number: int) -> str:
    """Bytes that are no message."""
    async with target.channel() as channel:
        return await target.complete(channel, random.Random(number).randbytes(100_000))


async def much_metadata(target: Target, _number: int) -> str:
    """Headers beyond the limit (C7)."""
    async with target.channel(("grpc.max_metadata_size", MEBI)) as channel:
        return await target.complete(
            channel, target.asking("well"), metadata=(("x-much", "a" * 200_000),)
        )


async def no_deadline(target: Target, _number: int) -> str:
    """No deadline, and a model that says nothing (C1)."""
    async with target.channel() as channel:
        return await target.complete(channel, target.asking("U3-mute"), deadline_s=None)


async def no_time(target: Target, _number: int) -> str:
    """A deadline that is as good as over (C2)."""
    async with target.channel() as channel:
        await channel.channel_ready()
        return await target.complete(channel, target.asking(SLOW), deadline_s=0.001)


async def leaves_early(target: Target, _number: int) -> str:
    """Cancel before the first token (C3)."""
    async with target.channel() as channel:
        call = completing(channel)(target.asking("U3-mute").SerializeToString())
        await asyncio.sleep(0.1)
        call.cancel()
        return "left"


async def vanishes(target: Target, _number: int) -> str:
    """Break the connection in mid-answer, without a word (C4)."""
    async with target.socket() as (reader, writer):
        writer.write(PREFACE + headers(COMPLETE) + posted(target.asking(SLOW)))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while await reader.read(65_536):
                    pass
        return "vanished"


async def never_reads(target: Target, _number: int) -> str:
    """Ask for a flood and read none of it (C5)."""
    async with target.channel(("grpc.http2.lookahead_bytes", 1_024)) as channel:
        call = completing(channel)(target.asking("flood").SerializeToString(), timeout=DEADLINE_S)
        await asyncio.sleep(3.0)
        call.cancel()
        return "left"


async def rapid_reset(target: Target, _number: int) -> str:
    """Open and reset 100 calls as fast as they can be written (C12)."""
    async with target.socket() as (reader, writer):
        opened = (headers(COMPLETE, stream=n) + frame(3, 0, n, bytes(4)) for n in range(1, 201, 2))
        writer.write(PREFACE + b"".join(opened))
        with suppress(ConnectionError):
            await writer.drain()
        return await until_quiet(reader)


async def pings(target: Target, _number: int) -> str:
    """A flood of pings (C12)."""
    async with target.socket() as (reader, writer):
        writer.write(PREFACE + frame(6, 0, 0, bytes(8)) * 5_000)
        with suppress(ConnectionError):
            await writer.drain()
        return await until_quiet(reader)


async def no_http2(target: Target, number: int) -> str:
    """Bytes that are no HTTP/2."""
    async with target.socket() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n" + random.Random(number).randbytes(100_000))
        with suppress(ConnectionError):
            await writer.drain()
        return await until_quiet(reader)


async def abandoned_route(target: Target, _number: int) -> str:
    """Ask for a choice, take it, and go (R32)."""
    async with target.channel() as channel:
        routing: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(ROUTE)
        call = routing(timeout=DEADLINE_S)
        request = RouteRequest()
        request.task.type = "parse"
        with suppress(aio.AioRpcError):
            await call.write(request.SerializeToString())
            await call.read()
        call.cancel()
        return "left"


# ------------------------------------------------------------------------------ HTTP/2 by hand


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    size, of_stream = struct.pack(">I", len(payload))[1:], struct.pack(">I", stream)
    return size + bytes((kind, flags)) + of_stream + payload


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")


def headers(path: str, encoding: bytes = b"", stream: int = 1) -> bytes:
    """The headers of a call, without any compression of theirs."""
    told = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    if encoding:
        told.append((b"grpc-encoding", encoding))
    block = b"".join(b"\0" + _text(name) + _text(value) for name, value in told)
    return frame(1, 4, stream, block)


def _text(text: bytes) -> bytes:
    assert len(text) < 127
    return bytes((len(text),)) + text


def posted(request: CompleteRequest) -> bytes:
    """The one message of a call, and its end."""
    data = request.SerializeToString()
    return frame(0, 1, 1, b"\0" + struct.pack(">I", len(data)) + data)


async def until_quiet(reader: asyncio.StreamReader) -> str:
    """Read until the server ends the connection, or says nothing for a while."""
    try:
        while True:
            async with asyncio.timeout(2.0):
                if not await reader.read(65_536):
                    return "closed"
    except TimeoutError:
        return "quiet"
    except ConnectionError:
        return "reset"


EACH_ITS_OWN = (same_id, unknown_names)


def _inputs() -> Iterator[tuple[str, Input]]:
    for name in SCRIPTS:
        yield name, of_a_model(name)
    yield "C1-no-deadline", Input(no_deadline)
    yield "C2-no-time", Input(no_time)
    yield "C3-leaves-early", Input(leaves_early)
    yield "C4-vanishes", Input(vanishes)
    yield "C5-never-reads", Input(never_reads)
    yield "C6-too-large", Input(too_large)
    yield "C6-bomb", Input(bomb)
    yield "C7-much-metadata", Input(much_metadata)
    yield "C8-odd-text", changed(odd_text)
    yield "C8-no-message", Input(no_message)
    yield "C9-unknown-names", changed(unknown_names)
    yield "C10-same-id", changed(same_id)
    yield "C12-rapid-reset", Input(rapid_reset)
    yield "C12-pings", Input(pings)
    yield "C12-no-http2", Input(no_http2)
    yield "C13-deep-schema", changed(deep_schema)
    yield "C13-many-tools", changed(many_tools)
    yield "C13-many-messages", changed(many_messages)
    yield "C14-ended-header", changed(ended_header)
    yield "C15-no-bound", changed(no_bound)
    yield "C16-abandoned-route", Input(abandoned_route)


INPUTS: Mapping[str, Input] = dict(_inputs())
