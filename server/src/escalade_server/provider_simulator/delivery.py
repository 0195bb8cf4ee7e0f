"""Puts an answer on the wire, in its own time, with the fault that was scripted."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web

from escalade_server.provider_simulator.answer import Answer, tokens_of
from escalade_server.provider_simulator.dialect import SSE_TYPE, Dialect, Envelope, Piece
from escalade_server.provider_simulator.ledger import Booking
from escalade_server.provider_simulator.odd_wire import (
    ENDLESS,
    ODD_JSON,
    gzip_bomb,
    odd_response,
)
from escalade_server.provider_simulator.refusals import HTML_TYPE, JSON_TYPE
from escalade_server.provider_simulator.scenario import Fault, FaultKind, ModelScript

SLICE_BYTES = 5
DRIP_INTERVAL_MS = 100
COMMENT_INTERVAL_MS = 50
COMMENTS_BEFORE_ANSWER = 3
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>\n"

UNANSWERED = frozenset(
    {
        FaultKind.RESET,
        FaultKind.SILENCE,
        FaultKind.HEADERS_THEN_SILENCE,
        FaultKind.ONLY_COMMENTS,
        FaultKind.JSON_ERROR_200,
        FaultKind.HTML_200,
        FaultKind.EMPTY_200,
        FaultKind.GZIP_BOMB,
    }
)
"""Kinds in which the model is never asked: neither billed nor counted, unless the fault says so."""

BREAKING = frozenset(
    {
        FaultKind.STALL,
        FaultKind.CUT,
        FaultKind.HANG_UP,
        FaultKind.BARE_END,
        FaultKind.ERROR_FRAME,
        FaultKind.SLOW_DRIP,
        *ENDLESS,
    }
)
"""Kinds that end an answer after some pieces of it."""

UNFINISHED = frozenset({FaultKind.STALL, FaultKind.CUT, FaultKind.HANG_UP, FaultKind.SLOW_DRIP})
"""Kinds in which a whole answer does not come to its end, or only much later."""

ODD_HEADS = frozenset(
    {
        FaultKind.LENGTH_TOO_LONG,
        FaultKind.LENGTH_TOO_SHORT,
        FaultKind.LENGTH_AND_CHUNKED,
        FaultKind.HEADER_FLOOD,
    }
)
"""Kinds in which the answer is one write, past the HTTP library."""


class Exchange:
    """One request on its connection."""

    __slots__ = ("cut", "request")

    def __init__(self, request: web.BaseRequest) -> None:
        """Keeps the request; `cut` says that it was not the client who left."""
        self.request = request
        self.cut = False

    def reset(self) -> None:
        """Ends the connection with a TCP reset."""
        self.cut = True
        transport = self.request.transport
        if transport is None:
            return
        sock = transport.get_extra_info("socket")
        # No lingering: closing sends RST instead of FIN.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    def write_raw(self, data: bytes) -> None:
        """Writes to the connection as it is, and ends it."""
        if self.request.transport is not None:
            self.request.transport.write(data)
        self.hang_up()

    def hang_up(self) -> None:
        """Ends the connection in order, but in the middle of the body."""
        self.cut = True
        if self.request.transport is not None:
            self.request.transport.close()

    async def silence(self) -> None:
        """Says nothing more; ends only by cancellation, when the client leaves."""
        await asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """All that is needed to tell one answer."""

    exchange: Exchange
    dialect: Dialect
    envelope: Envelope
    answer: Answer
    script: ModelScript
    fault: Fault | None
    booking: Booking
    headers: Mapping[str, str]

    @property
    def kind(self) -> FaultKind | None:
        """The fault's kind."""
        return None if self.fault is None else self.fault.kind

    async def stream(self) -> web.StreamResponse:
        """Tells the answer as server-sent events."""
        response = web.StreamResponse(headers=self.headers)
        opening, pieces, ending, response.content_type = self.dialect.stream(
            self.answer, self.envelope
        )
        if self.kind in ODD_HEADS:
            frames = b"".join(piece.frame for piece in pieces)
            return self.write_odd(opening + frames + ending, response.content_type)
        await self.wait_for_first(response)
        if self.kind is FaultKind.BYTE_ORDER_MARK:
            opening = BYTE_ORDER_MARK + opening
        if self.fault is not None and self.kind in BREAKING:
            await self.tell(response, opening, pieces[: self.fault.after_chunks], b"")
            if self.kind is FaultKind.SLOW_DRIP:
                await self.drip(response, pieces[self.fault.after_chunks :], ending)
            return await self.break_off(response)
        if self.fault is not None and self.fault.kind in ODD_JSON:
            pieces = list(pieces)
            odd = self.dialect.frame(ODD_JSON[self.fault.kind], self.envelope)
            pieces.insert(self.fault.after_chunks, Piece(odd, 0))
        await self.tell(response, opening, pieces, ending)
        return response

    async def wait_for_first(self, response: web.StreamResponse) -> None:
        """Waits as long as the model thinks, with comments if the fault has them."""
        wait_s = self.script.first_token_ms / 1000
        if self.kind is FaultKind.KEEP_ALIVE_COMMENTS:
            await response.prepare(self.exchange.request)
            comment = self.envelope.vendor.keep_alive
            for _ in range(COMMENTS_BEFORE_ANSWER):
                await response.write(comment if response.content_type == SSE_TYPE else b"\n")
                await asyncio.sleep(wait_s / COMMENTS_BEFORE_ANSWER)
            return
        if wait_s:
            await asyncio.sleep(wait_s)
        await response.prepare(self.exchange.request)

    async def tell(
        self,
        response: web.StreamResponse,
        opening: bytes,
        pieces: Sequence[Piece],
        ending: bytes,
    ) -> None:
        """Writes the frames in the script's rhythm; an ending goes with the last piece."""
        if not self.interval_s(None):
            frames = b"".join(piece.frame for piece in pieces)
            self.generated(sum(piece.size_bytes for piece in pieces), ended=bool(ending))
            await self.send(response, opening + frames + ending)
            return
        if not pieces:
            self.generated(0, ended=bool(ending))
            await self.send(response, opening + ending)
            return
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        last = len(pieces) - 1
        for place, piece in enumerate(pieces):
            if place:
                # Against the clock, not after the last write: a slow loop must not slow the rate.
                due_s += self.interval_s(piece)
                await asyncio.sleep(due_s - loop.time())
            frames = piece.frame if place else opening + piece.frame
            ends = place == last and bool(ending)
            self.generated(piece.size_bytes, ended=ends)
            await self.send(response, frames + ending if ends else frames)

    def interval_s(self, piece: Piece | None) -> float:
        """Seconds before a piece; of None: more than zero if there is any rhythm at all."""
        rate = self.script.tokens_per_second
        if rate is None:
            return self.script.chunk_interval_ms / 1000
        return 1.0 if piece is None else max(1, tokens_of(piece.size_bytes)) / rate

    def generated(self, size_bytes: int, *, ended: bool) -> None:
        """Counts output before it is sent, so that a client that has it finds it in the ledger."""
        self.booking.generated_bytes += size_bytes
        if ended:
            self.finish()

    def finish(self) -> None:
        """Books the answer as told to its end."""
        self.booking.settle(whole=True)
        self.booking.tally.requests_finished += 1

    async def send(self, response: web.StreamResponse, data: bytes) -> None:
        """Writes frames, spelt or split as the fault has it."""
        if self.kind is FaultKind.CRLF_FRAMES:
            data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        if self.kind is not FaultKind.SPLIT_BYTES:
            await response.write(data)
            return
        for start in range(0, len(data), SLICE_BYTES):
            await response.write(data[start : start + SLICE_BYTES])
            await asyncio.sleep(0)

    async def drip(
        self, response: web.StreamResponse, pieces: Sequence[Piece], ending: bytes
    ) -> None:
        """Tells the rest of the answer byte by byte (U6): always alive, hardly ever done."""
        for piece in (*pieces, Piece(ending, 0)):
            self.generated(piece.size_bytes, ended=False)
            for place in range(len(piece.frame)):
                await response.write(piece.frame[place : place + 1])
                await asyncio.sleep(DRIP_INTERVAL_MS / 1000)
        self.finish()

    def write_odd(self, body: bytes, content_type: str) -> web.StreamResponse:
        """Tells the whole answer under a head that is wrong (U22, U23)."""
        assert self.kind is not None
        self.generated(0, ended=True)
        self.exchange.write_raw(odd_response(self.kind, body, content_type))
        return web.StreamResponse()

    async def whole(self) -> web.StreamResponse:
        """Tells the answer in one body."""
        response = web.StreamResponse(headers=self.headers)
        response.content_type = JSON_TYPE
        if self.kind is FaultKind.KEEP_ALIVE_COMMENTS:
            await response.prepare(self.exchange.request)
            await response.write(b"\n" * COMMENTS_BEFORE_ANSWER)
        await self.generate()
        body = self.dialect.whole(self.answer, self.envelope)
        if self.kind in ODD_HEADS:
            return self.write_odd(body, JSON_TYPE)
        if self.kind is not None:
            body = ODD_JSON.get(self.kind, body)
        if self.kind not in UNFINISHED:
            self.finish()
        if self.kind is FaultKind.KEEP_ALIVE_COMMENTS:
            await response.write(body)
            return response
        if self.kind not in BREAKING or self.kind in {FaultKind.ERROR_FRAME, FaultKind.BARE_END}:
            return web.Response(body=body, headers=self.headers, content_type=JSON_TYPE)
        if self.kind not in ENDLESS:
            response.content_length = len(body)
        await response.prepare(self.exchange.request)
        await response.write(body[: len(body) // 2])
        if self.kind is FaultKind.SLOW_DRIP:
            await self.drip(response, (), body[len(body) // 2 :])
        return await self.break_off(response)

    async def generate(self) -> None:
        """Takes the time of the whole answer; a client that leaves pays what was made by then."""
        pieces = self.dialect.stream(self.answer, self.envelope).pieces
        sizes = [piece.size_bytes for piece in pieces]
        first_s = self.script.first_token_ms / 1000
        last_s = first_s + sum(self.interval_s(piece) for piece in pieces[1:])
        if last_s:
            loop = asyncio.get_running_loop()
            begin_s = loop.time()
            try:
                await asyncio.sleep(last_s)
            except asyncio.CancelledError:
                share = (loop.time() - begin_s - first_s) / max(last_s - first_s, 0.001)
                self.generated(int(sum(sizes) * max(0.0, share)), ended=False)
                raise
        self.generated(sum(sizes), ended=False)

    async def break_off(self, response: web.StreamResponse) -> web.StreamResponse:
        """Ends a stream as the fault has it."""
        match self.kind:
            case FaultKind.STALL:
                await self.exchange.silence()
            case FaultKind.CUT:
                self.exchange.reset()
            case FaultKind.HANG_UP:
                self.exchange.hang_up()
            case FaultKind.ERROR_FRAME:
                await response.write(self.dialect.broken_frame(self.answer, self.envelope))
            case FaultKind.ENDLESS_LINE | FaultKind.HUGE_EVENT:
                begin, block = ENDLESS[self.kind]
                await response.write(begin)
                while True:
                    await response.write(block)
            case _:
                pass
        return response


async def unanswered(
    exchange: Exchange, kind: FaultKind, keep_alive: bytes, error_body: bytes
) -> web.StreamResponse:
    """What a client gets when the model is never asked."""
    response = web.StreamResponse()
    response.content_type = SSE_TYPE
    match kind:
        case FaultKind.RESET:
            exchange.reset()
        case FaultKind.SILENCE:
            await exchange.silence()
        case FaultKind.JSON_ERROR_200:
            return web.Response(body=error_body, content_type=JSON_TYPE)
        case FaultKind.HTML_200:
            return web.Response(body=LOGIN_PAGE, headers={"content-type": HTML_TYPE})
        case FaultKind.ONLY_COMMENTS:
            await response.prepare(exchange.request)
            while True:
                await response.write(keep_alive)
                await asyncio.sleep(COMMENT_INTERVAL_MS / 1000)
        case FaultKind.GZIP_BOMB:
            response.headers["content-encoding"] = "gzip"
            await response.prepare(exchange.request)
            for block in gzip_bomb():
                await response.write(block)
                # Packing takes long: others have their turn between blocks.
                await asyncio.sleep(0)
        case FaultKind.HEADERS_THEN_SILENCE:
            await response.prepare(exchange.request)
            await exchange.silence()
        case _:
            await response.prepare(exchange.request)
    return response
