"""What every target needs: cuts of a stream, drawn from the stream itself so that runs repeat."""

import random
import zlib
from collections.abc import Iterator

NOW_MS = 1_795_586_400_000
"""Wednesday 2026-11-25, 06:00 UTC."""
BYTEWISE_MAX = 512


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Cut at every byte of a short stream, and anywhere; the same data is always cut alike."""
    if len(data) <= BYTEWISE_MAX:
        yield [data[at : at + 1] for at in range(len(data))]
    chance = random.Random(zlib.crc32(data))
    parts: list[bytes] = []
    while data:
        size = chance.choice((1, 2, 3, 5, 16, 64, 512))
        parts.append(data[:size])
        data = data[size:]
    yield parts


def said_to_people(text: str, chars_max: int) -> None:
    """Hold what people read: it is short, and nothing in it moves a terminal's cursor."""
    assert len(text) <= chars_max, len(text)
    assert all(line.isprintable() for line in text.split("\n")), text
