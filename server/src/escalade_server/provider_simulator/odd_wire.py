"""Bytes that no vendor should send: bombs, floods, lengths that lie."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from escalade_server.provider_simulator.scenario import FaultKind

DEPTH = 100_000
DIGITS = 1_000_000
BOMB_BLOCKS = 256
BLOCK_BYTES = 1_048_576
GZIP_BITS = 31
FLOOD_HEADERS = 10_000
LIE_BYTES = 1_000

ODD_JSON: Mapping[FaultKind, bytes] = MappingProxyType(
    {
        FaultKind.GARBAGE_JSON: b'{"id":"simulated-1","choices":[{"index":0,"delta":{"cont',
        FaultKind.DEEP_JSON: b'{"deep":' + b"[" * DEPTH + b"]" * DEPTH + b"}",
        FaultKind.HUGE_NUMBER: b'{"number":' + b"9" * DIGITS + b"}",
    }
)
"""What stands in the place of one frame's JSON (U19, U20)."""

ENDLESS: Mapping[FaultKind, tuple[bytes, bytes]] = MappingProxyType(
    {
        FaultKind.ENDLESS_LINE: (b"data: ", b"x" * 65_536),
        FaultKind.HUGE_EVENT: (b"", (b"data: " + b"x" * 58 + b"\n") * 1_000),
    }
)
"""Beginning and block of what never ends: a line without its end, an event of ever more lines."""


def gzip_bomb() -> Iterator[bytes]:
    """256 MiB of blanks in about 256 KiB of gzip, block by block (U21)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, GZIP_BITS)
    block = b" " * BLOCK_BYTES
    for _ in range(BOMB_BLOCKS):
        yield packer.compress(block)
    yield packer.flush()


def odd_response(kind: FaultKind, body: bytes, content_type: str) -> bytes:
    """A whole HTTP response whose head is wrong (U22), or far too long (U23)."""
    heads = [f"content-type: {content_type}"]
    match kind:
        case FaultKind.LENGTH_TOO_LONG:
            heads.append(f"content-length: {len(body) + LIE_BYTES}")
        case FaultKind.LENGTH_TOO_SHORT:
            heads.append(f"content-length: {len(body) // 2}")
        case FaultKind.LENGTH_AND_CHUNKED:
            heads += [f"content-length: {len(body)}", "transfer-encoding: chunked"]
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        case _:
            heads += [f"x-flood-{place}: {'x' * 80}" for place in range(FLOOD_HEADERS)]
            heads.append(f"content-length: {len(body)}")
    head = "\r\n".join(["HTTP/1.1 200 OK", *heads])
    return head.encode() + b"\r\n\r\n" + body
