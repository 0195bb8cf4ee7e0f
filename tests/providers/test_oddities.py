"""What decoders count of an answer that is odd and comes all the same (U16, U26, U29)."""

import json

import pytest

from escalade_server.core.events import ChunkArrived
from escalade_server.core.failure import Failure
from escalade_server.core.trace import Oddities
from escalade_server.providers.registry import CODECS
from tests.providers.candidates import candidate
from tests.providers.golden_cases import decode

VENDORS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}


def sse(*values: object) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


ENDINGS: dict[str, bytes] = {
    "openai": sse(
        {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 1}},
    ),
    "anthropic": sse(
        {"type": "message_start", "message": {"usage": {"input_tokens": -1, "output_tokens": 1}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 1},
        },
        {"type": "message_stop"},
    ),
    "gemini": sse(
        {
            "candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": -1},
        }
    ),
}
NEWS = sse({"type": "novel", "x": 1}) + b'novel: field\n\n: a comment\n\ndata: {"x": "\xff"}\n\n'


def odd_of(dialect: str, body: bytes) -> Oddities | None:
    decoder = CODECS[dialect].decoder(
        candidate(VENDORS[dialect], "m", dialect=dialect),
        1,
        streamed=True,
        content_type="text/event-stream",
        now_ms=0,
    )
    told = decode(decoder, [body])
    assert not any(isinstance(event, Failure) for event in told)
    found = [event.oddities for event in told if isinstance(event, ChunkArrived) and event.oddities]
    return found[-1] if found else None


@pytest.mark.fault("U16", "U26", "U29")
@pytest.mark.parametrize("dialect", VENDORS)
def test_what_is_odd_is_counted(dialect: str) -> None:
    assert odd_of(dialect, NEWS + ENDINGS[dialect]) == Oddities(1, 3, unbelievable=True)


@pytest.mark.fault("U26")
@pytest.mark.parametrize("dialect", VENDORS)
def test_usage_that_is_believed_is_nothing_odd(dialect: str) -> None:
    assert odd_of(dialect, ENDINGS[dialect].replace(b"-1", b"1")) is None
