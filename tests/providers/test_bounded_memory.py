"""Hostile streams are refused early, and cost little memory (faults U14, U15, U20)."""

import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from escalade_server.core.failure import Failure, FailureClass
from escalade_server.providers.registry import CODECS
from tests.providers.candidates import candidate

VENDORS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
READ_BYTES = 65_536
MEBIBYTE = 1_048_576
PEAK_BYTES_MAX = 16 * MEBIBYTE
"""An event may hold 2 MiB, its line as much, and both once more while they are joined."""


def endless_line() -> Iterator[bytes]:
    yield b"data: "
    for _ in range(64 * MEBIBYTE // READ_BYTES):
        yield b"x" * READ_BYTES


def a_million_lines() -> Iterator[bytes]:
    block = b"data: xxxxxxxxxx\n" * 4_096
    for _ in range(64 * MEBIBYTE // len(block)):
        yield block


def deep_json() -> Iterator[bytes]:
    yield b"data: " + b"[" * 100_000 + b"\n\n"


def huge_number() -> Iterator[bytes]:
    yield b'data: {"created": ' + b"9" * 900_000 + b"}\n\n"


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize(
    "hostile", [endless_line, a_million_lines, deep_json, huge_number], ids=lambda f: f.__name__
)
@pytest.mark.fault("U14", "U15")
def test_a_hostile_stream_ends_early_and_small(
    name: str, hostile: Callable[[], Iterator[bytes]]
) -> None:
    decoder = CODECS[name].decoder(
        candidate(VENDORS[name], "m", dialect=name),
        1,
        streamed=True,
        content_type="text/event-stream",
        now_ms=0,
    )
    taken = 0
    tracemalloc.start()
    try:
        for data in hostile():
            taken += len(data)
            assert decoder.feed(data) is None
            if decoder.finished:
                break
        outcome = decoder.close()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(outcome, Failure)
    assert outcome.cls is FailureClass.PROTOCOL
    assert taken <= 5 * MEBIBYTE
    assert peak_bytes <= PEAK_BYTES_MAX
