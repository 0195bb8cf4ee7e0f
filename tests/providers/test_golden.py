"""Golden cases of every dialect: encoding, and decoding at every split of the bytes."""

import json
from pathlib import Path

import pytest

from escalade_server.core.events import ChunkArrived
from escalade_server.providers.codec import Decoder, Endpoint
from escalade_server.providers.openai_chat import OpenAIChat
from tests.providers.candidates import candidate
from tests.providers.golden_cases import Json, decode, folders, load, merged, request

NOW_MS = 1_795_586_400_000  # Wednesday 2026-11-25, 06:00 UTC
CODEC = OpenAIChat()
DECODED = folders("openai", "events.json")
ENCODED = folders("openai", "wire_request.json")


def decoder(expected: Json) -> Decoder:
    return CODEC.decoder(
        candidate(expected["provider"], expected["model_id"]),
        3,
        streamed=expected.get("streamed", True),
        content_type=expected.get("content_type", "text/event-stream"),
        now_ms=NOW_MS,
    )


def answer(folder: Path) -> bytes:
    (path,) = folder.glob("response.*")
    return path.read_bytes()


def wanted(expected: Json) -> Json:
    names = ("deltas", "finish", "usage", "model", "cost_nanos", "failure")
    return {name: expected[name] for name in names}


@pytest.mark.parametrize("folder", ENCODED, ids=lambda folder: folder.name)
def test_a_request_is_encoded(folder: Path) -> None:
    told = load(folder / "request.json")
    endpoint = Endpoint(told["provider"], "default", told["base_url"], told["api_key"])
    chosen = candidate(told["provider"], told["model"], told["output_tokens_max"])
    wire = CODEC.encode(request(told), chosen, endpoint)
    assert wire.streamed
    shown = {
        "method": wire.method,
        "url": wire.url,
        "headers": [list(header) for header in wire.headers],
        "body": json.loads(wire.body),
    }
    assert shown == load(folder / "wire_request.json")


@pytest.mark.parametrize("folder", DECODED, ids=lambda folder: folder.name)
def test_an_answer_is_decoded(folder: Path) -> None:
    expected = load(folder / "events.json")
    events = decode(decoder(expected), [answer(folder)])
    assert merged(events) == wanted(expected)
    assert all(event.attempt == 3 for event in events if isinstance(event, ChunkArrived))


@pytest.mark.parametrize("folder", DECODED, ids=lambda folder: folder.name)
def test_every_split_of_an_answer_tells_the_same(folder: Path) -> None:
    expected = load(folder / "events.json")
    data = answer(folder)
    assert merged(decode(decoder(expected), (data[i : i + 1] for i in range(len(data))))) == (
        wanted(expected)
    )
    for cut in range(1, len(data)):
        told = merged(decode(decoder(expected), (data[:cut], data[cut:])))
        assert told == wanted(expected), cut


@pytest.mark.parametrize("folder", DECODED, ids=lambda folder: folder.name)
def test_nothing_comes_after_the_end(folder: Path) -> None:
    expected = load(folder / "events.json")
    made = decoder(expected)
    decode(made, [answer(folder)])
    assert made.finished
    assert made.feed(answer(folder)) is None
    assert made.close() is None


def test_no_case_is_idle() -> None:
    assert {*ENCODED, *DECODED} == set((ENCODED[0].parent).iterdir())
    assert len(ENCODED) > 20
    assert len(DECODED) > 60
